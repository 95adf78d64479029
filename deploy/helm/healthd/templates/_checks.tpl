{{- /* What the schema cannot say: values that do not fit each other. */ -}}
{{- define "healthd.checks" -}}
{{- $values := .Values -}}
{{- if or (regexMatch "^(127\\.|localhost$|::1$)" $values.server.host) (eq (int $values.server.port) 0) -}}
{{- fail "server: the Service and the probes must reach healthd: leave server.host at 0.0.0.0, and server.port at a fixed one" -}}
{{- end -}}
{{- $existing := $values.existingConfig -}}
{{- if and $existing.secret $existing.configMap -}}
{{- fail "existingConfig: name a secret or a configMap, not both" -}}
{{- end -}}
{{- if or $existing.secret $existing.configMap -}}
{{- range $section := list "auth" "log" "snapshots" "streams" "inference" "performance" "cameras" -}}
{{- if index $values $section -}}
{{- fail (printf "%s: would not be read, because existingConfig is set: write it into that file" $section) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- range $key := $values.auth.keys -}}
{{- if not (regexMatch "^(\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}|file:/[^/].*)$" $key.key) -}}
{{- fail (printf "auth.keys: the key of `%s` would stand in a ConfigMap: write ${NAME} and name its Secret in secretEnv" $key.name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $camera := $values.cameras -}}
{{- if regexMatch "://[^/@$]*:[^/@$]+@" (toString $camera.url) -}}
{{- fail (printf "cameras.%s.url: its password would stand in a ConfigMap: write ${NAME} and name its Secret in secretEnv" $name) -}}
{{- end -}}
{{- end -}}
{{- if and (include "healthd.ownKey" .) (not $values.apiKey.create) (not $values.apiKey.existingSecret) -}}
{{- fail "apiKey: everybody would be let in: set apiKey.create, apiKey.existingSecret, auth.keys, or auth.mode to none" -}}
{{- end -}}
{{- end -}}
{{- if and $values.v4l2.devices (not $values.v4l2.privileged) -}}
{{- fail "v4l2.devices: a container may open a device of the node only with v4l2.privileged; without it, use a device plugin and v4l2.resource" -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.hosts) -}}
{{- fail "ingress.hosts: name at least one host" -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: name at least one gateway" -}}
{{- end -}}
{{- end -}}
