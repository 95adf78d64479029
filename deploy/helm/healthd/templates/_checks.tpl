{{- /* What the schema cannot say: values that do not fit each other. */ -}}
{{- define "healthd.checks" -}}
{{- $values := .Values -}}
{{- $needed := dict "server" (list "host" "port") "shutdown" (list "grace_seconds" "drain_seconds") -}}
{{- $_ := set $needed "models" (list "directory" "cache_directory") -}}
{{- $_ := set $needed "jobs" (list "directory") -}}
{{- range $section, $keys := $needed -}}
{{- range $key := $keys -}}
{{- if kindIs "invalid" (index $values $section $key) -}}
{{- fail (printf "%s.%s: the chart must know it: leave it at its default, or say another" $section $key) -}}
{{- end -}}
{{- $variable := upper (printf "HEALTHD_%s__%s" $section $key) -}}
{{- if or (hasKey (default dict $values.env) $variable) (hasKey (default dict $values.secretEnv) $variable) -}}
{{- fail (printf "%s: the chart must know it: say it as %s.%s" $variable $section $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if or (regexMatch "^(127\\.|localhost$|::1$)" $values.server.host) (eq (int $values.server.port) 0) -}}
{{- fail "server: the Service and the probes must reach healthd: leave server.host at 0.0.0.0, and server.port at a fixed one" -}}
{{- end -}}
{{- if and $values.tls.secretName (or $values.server.tls_cert $values.server.tls_key) -}}
{{- fail "tls.secretName: the chart says where its files are: leave server.tls_cert and server.tls_key out" -}}
{{- end -}}
{{- $existing := $values.existingConfig -}}
{{- if and $existing.secret $existing.configMap -}}
{{- fail "existingConfig: name a secret or a configMap, not both" -}}
{{- end -}}
{{- if or $existing.secret $existing.configMap -}}
{{- range $section := list "auth" "log" "config" "snapshots" "streams" "inference" "performance" "cameras" -}}
{{- if index $values $section -}}
{{- fail (printf "%s: would not be read, because existingConfig is set: write it into that file" $section) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $needed "server" (append $needed.server "root_path") -}}
{{- $_ := set $needed "models" (append $needed.models "load_timeout_seconds") -}}
{{- range $section, $keys := $needed -}}
{{- range $key, $_ := index $values $section -}}
{{- if not (has $key $keys) -}}
{{- fail (printf "%s.%s: would not be read, because existingConfig is set: write it into that file" $section $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- range $key := $values.auth.keys -}}
{{- if not (regexMatch "^(\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}|file:/[^/].*|scrypt:.*)$" $key.key) -}}
{{- fail (printf "auth.keys: the key of `%s` would stand in a ConfigMap: write ${NAME} and name its Secret in secretEnv, or its hash (healthd auth hash)" $key.name) -}}
{{- end -}}
{{- end -}}
{{- if include "healthd.checks.plainUrl" $values.jobs.redis_url -}}
{{- fail "jobs.redis_url: its password would stand in a ConfigMap: write ${NAME} and name its Secret in secretEnv" -}}
{{- end -}}
{{- range $name, $camera := $values.cameras -}}
{{- if include "healthd.checks.plainUrl" $camera.url -}}
{{- fail (printf "cameras.%s.url: its password would stand in a ConfigMap: write ${NAME} and name its Secret in secretEnv" $name) -}}
{{- end -}}
{{- with include "healthd.checks.plainOption" (dict "value" $camera.options "path" "options") -}}
{{- fail (printf "cameras.%s.%s: would stand in a ConfigMap: write ${NAME} and name its Secret in secretEnv" $name .) -}}
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

{{- /* Says something where a URL holds a password that is no ${NAME}: before the host, or in the query. */ -}}
{{- define "healthd.checks.plainUrl" -}}
{{- $url := regexReplaceAll "\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}" (toString .) "" -}}
{{- $query := "(?i)[?&/;](pass(word|wd)?|pwd|pw|token|key|secret|api_?key)=[^&/;#]" -}}
{{- if or (regexMatch "://[^/?#]*:[^/?#]+@|://[^/?#@:\\[]*:[^@/]*[^@/0-9][^@/]*/.*@" $url) (regexMatch $query $url) -}}
true
{{- end -}}
{{- end -}}

{{- /* The path of the first option whose key calls its text a secret (healthd.redact.is_telling), and which is no ${NAME}. */ -}}
{{- define "healthd.checks.plainOption" -}}
{{- $path := .path -}}
{{- $telling := .telling -}}
{{- $words := "(^|[^a-z])(pass|pw|keys?|cookies?|authorization|bearer)([^a-z]|$)|(password|passwd|passphrase|passcode|pwd|secret|token|apikey|credential)s?([^a-z]|$)" -}}
{{- $found := "" -}}
{{- if kindIs "map" .value -}}
{{- range $key, $value := .value -}}
{{- $inner := dict "value" $value "path" (printf "%s.%s" $path $key) "telling" (or $telling (regexMatch $words (snakecase $key))) -}}
{{- $found = default (include "healthd.checks.plainOption" $inner) $found -}}
{{- end -}}
{{- else if kindIs "slice" .value -}}
{{- range .value -}}
{{- $found = default (include "healthd.checks.plainOption" (dict "value" . "path" $path "telling" $telling)) $found -}}
{{- end -}}
{{- else if kindIs "string" .value -}}
{{- if or (include "healthd.checks.plainUrl" .value) (and $telling .value (not (regexMatch "^(\\$\\{|file:)" .value))) -}}
{{- $found = $path -}}
{{- end -}}
{{- end -}}
{{- $found -}}
{{- end -}}
