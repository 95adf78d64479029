{{- define "healthd.terminationGracePeriodSeconds" -}}
{{- ceil (addf .Values.shutdown.grace_seconds .Values.shutdown.drain_seconds 5) | int -}}
{{- end -}}

{{- define "healthd.startupSeconds" -}}
{{- if .Values.probes.startupSeconds -}}
{{- .Values.probes.startupSeconds | int -}}
{{- else -}}
{{- ceil (addf (default 120 .Values.models.load_timeout_seconds) 60) | int -}}
{{- end -}}
{{- end -}}

{{- define "healthd.containerSecurity" -}}
{{- $privileged := .Values.v4l2.privileged -}}
allowPrivilegeEscalation: {{ $privileged }}
privileged: {{ $privileged }}
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "healthd.hardened" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* With plugins, the environment that the init container made; it sees what the image has, too. */ -}}
{{- define "healthd.python" -}}
{{- ternary "/var/lib/healthd/plugins/bin/python" "python" (not (empty .Values.plugins.pip)) -}}
{{- end -}}

{{- define "healthd.scheme" -}}
{{- ternary "HTTPS" "HTTP" (not (empty (or .Values.tls.secretName .Values.server.tls_cert))) -}}
{{- end -}}

{{- define "healthd.env" -}}
- name: HOME
  value: /tmp
{{- if .Values.tls.secretName }}
- name: HEALTHD_SERVER__TLS_CERT
  value: /etc/healthd-tls/tls.crt
- name: HEALTHD_SERVER__TLS_KEY
  value: /etc/healthd-tls/tls.key
{{- end }}
{{- if or .Values.existingConfig.secret .Values.existingConfig.configMap }}
- name: HEALTHD_SERVER__HOST
  value: {{ .Values.server.host | quote }}
- name: HEALTHD_SERVER__PORT
  value: {{ .Values.server.port | toString | quote }}
{{- with .Values.server.root_path }}
- name: HEALTHD_SERVER__ROOT_PATH
  value: {{ . | quote }}
{{- end }}
- name: HEALTHD_SHUTDOWN__GRACE_SECONDS
  value: {{ .Values.shutdown.grace_seconds | toString | quote }}
- name: HEALTHD_SHUTDOWN__DRAIN_SECONDS
  value: {{ .Values.shutdown.drain_seconds | toString | quote }}
- name: HEALTHD_MODELS__DIRECTORY
  value: {{ .Values.models.directory | quote }}
- name: HEALTHD_MODELS__CACHE_DIRECTORY
  value: {{ .Values.models.cache_directory | quote }}
{{- with .Values.models.load_timeout_seconds }}
- name: HEALTHD_MODELS__LOAD_TIMEOUT_SECONDS
  value: {{ . | toString | quote }}
{{- end }}
- name: HEALTHD_JOBS__DIRECTORY
  value: {{ .Values.jobs.directory | quote }}
{{- end }}
{{- if include "healthd.ownKey" . }}
- name: ADMIN_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "healthd.apiKeySecret" . }}
      key: {{ .Values.apiKey.secretKey }}
{{- end }}
{{- range $name, $from := .Values.secretEnv }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $from.secret }}
      key: {{ $from.key }}
{{- end }}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "healthd.envFrom" -}}
{{- with .Values.envFromSecrets -}}
envFrom:
  {{- range . }}
  - secretRef:
      name: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "healthd.mounts" -}}
- name: config
  mountPath: /etc/healthd
  readOnly: true
- name: models
  mountPath: /var/lib/healthd/models
  readOnly: {{ .Values.persistence.models.readOnly }}
- name: state
  mountPath: /var/lib/healthd/state
- name: tmp
  mountPath: /tmp
{{- if .Values.tls.secretName }}
- name: tls
  mountPath: /etc/healthd-tls
  readOnly: true
{{- end }}
{{- if .Values.plugins.pip }}
- name: plugins
  mountPath: /var/lib/healthd/plugins
{{- end }}
{{- range $index, $device := .Values.v4l2.devices }}
- name: v4l2-{{ $index }}
  mountPath: {{ $device }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "healthd.volumes" -}}
- name: config
  {{- if .Values.existingConfig.secret }}
  secret:
    secretName: {{ .Values.existingConfig.secret }}
    items: [{key: {{ .Values.existingConfig.key | quote }}, path: config.toml}]
  {{- else if .Values.existingConfig.configMap }}
  configMap:
    name: {{ .Values.existingConfig.configMap }}
    items: [{key: {{ .Values.existingConfig.key | quote }}, path: config.toml}]
  {{- else }}
  configMap:
    name: {{ include "healthd.fullname" . }}
  {{- end }}
{{- range $kind := list "models" "state" }}
{{- $volume := index $.Values.persistence $kind }}
- name: {{ $kind }}
  {{- if $volume.enabled }}
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-%s" (include "healthd.fullname" $) $kind) $volume.existingClaim }}
    {{- if $volume.readOnly }}
    readOnly: true
    {{- end }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ $volume.size }}
  {{- end }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
{{- if .Values.plugins.pip }}
- name: plugins
  emptyDir: {}
{{- if .Values.plugins.wheelsClaim }}
- name: wheels
  persistentVolumeClaim:
    claimName: {{ .Values.plugins.wheelsClaim }}
    readOnly: true
{{- end }}
{{- end }}
{{- with .Values.tls.secretName }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- range $index, $device := .Values.v4l2.devices }}
- name: v4l2-{{ $index }}
  hostPath:
    path: {{ $device }}
    type: CharDevice
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "healthd.resources" -}}
{{- $limits := deepCopy (default dict .Values.resources.limits) -}}
{{- if .Values.gpu.enabled -}}
{{- $_ := set $limits .Values.gpu.resource (.Values.gpu.count | int) -}}
{{- end -}}
{{- if .Values.v4l2.resource -}}
{{- $_ := set $limits .Values.v4l2.resource (.Values.v4l2.count | int) -}}
{{- end -}}
{{- toYaml (merge (dict "limits" $limits) .Values.resources) -}}
{{- end -}}
