{{- /* The configuration as TOML. Sprig's toToml writes every number of the values as a float: 8080.0. */ -}}

{{- define "healthd.toml.key" -}}
{{- ternary . (toJson .) (regexMatch "^[A-Za-z0-9_-]+$" .) -}}
{{- end -}}

{{- /* A value in one line. What JSON and TOML call a number, a text and a truth is the same. */ -}}
{{- define "healthd.toml.inline" -}}
{{- if kindIs "map" . -}}
{{- $pairs := list -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $pairs = append $pairs (printf "%s = %s" (include "healthd.toml.key" $key) (include "healthd.toml.inline" $value)) -}}
{{- end -}}
{{- end -}}
{ {{- join ", " $pairs -}} }
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . -}}
{{- $items = append $items (include "healthd.toml.inline" .) -}}
{{- end -}}
[{{- join ", " $items -}}]
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}

{{- /* A table: its values, then the tables in it. Takes {table, path}. */ -}}
{{- define "healthd.toml.table" -}}
{{- $path := .path -}}
{{- if $path }}
[{{ $path }}]
{{ end -}}
{{- range $key, $value := .table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) -}}
{{ include "healthd.toml.key" $key }} = {{ include "healthd.toml.inline" $value }}
{{ end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- if kindIs "map" $value -}}
{{- $inner := include "healthd.toml.key" $key -}}
{{ include "healthd.toml.table" (dict "table" $value "path" (ternary (printf "%s.%s" $path $inner) $inner (ne $path ""))) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "healthd.sections" -}}
server auth shutdown log config snapshots streams models inference jobs performance cameras
{{- end -}}

{{- /* Whether the one key of the chart is the way in. */ -}}
{{- define "healthd.ownKey" -}}
{{- if not (or .Values.existingConfig.secret .Values.existingConfig.configMap .Values.auth.keys (eq (toString .Values.auth.mode) "none")) -}}
true
{{- end -}}
{{- end -}}

{{- define "healthd.apiKeySecret" -}}
{{- default (printf "%s-api-key" (include "healthd.fullname" .)) .Values.apiKey.existingSecret -}}
{{- end -}}

{{- define "healthd.config" -}}
{{- $tables := dict -}}
{{- range $section := splitList " " (include "healthd.sections" .) -}}
{{- with index $.Values $section -}}
{{- $_ := set $tables $section . -}}
{{- end -}}
{{- end -}}
{{- if include "healthd.ownKey" . -}}
{{- $key := dict "name" "admin" "key" "${ADMIN_API_KEY}" "scope" "admin" -}}
{{- $_ := set $tables "auth" (merge (dict "keys" (list $key)) .Values.auth) -}}
{{- end -}}
{{- include "healthd.toml.table" (dict "table" $tables "path" "") | trim -}}
{{- end -}}
