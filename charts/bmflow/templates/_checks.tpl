{{/* What the schema cannot say: values that need each other. Each refusal names the value, what was expected, and what to do. */}}
{{- define "bmflow.checks" -}}
{{- $values := .Values -}}
{{- $stages := include "bmflow.stages" . | fromYaml -}}
{{- range $name := keys $values.stages | sortAlpha }}
{{- if not (hasKey $stages $name) }}{{ fail (printf "stages.%s: there is no such stage; expected one of %s" $name (keys $stages | sortAlpha | join ", ")) }}{{ end }}
{{- end }}
{{- if eq $values.mlflow.mode "external" }}
{{- if not $values.mlflow.uri }}{{ fail "mlflow.uri: expected the address of the external MLflow server, found nothing; give it, or set mlflow.mode to deploy" }}{{ end }}
{{- else if $values.mlflow.uri }}{{ fail "mlflow.uri: given although mlflow.mode is deploy, so it would be ignored; set mlflow.mode to external, or leave it out" }}
{{- end }}
{{- if and (eq $values.runRoot.type "s3") (not $values.runRoot.s3.uri) }}{{ fail "runRoot.s3.uri: expected s3://bucket/prefix because runRoot.type is s3, found nothing" }}{{ end }}
{{- if and (eq $values.dags.delivery "gitSync") (not $values.dags.git.repository) }}{{ fail "dags.git.repository: expected the address of the repository because dags.delivery is gitSync, found nothing" }}{{ end }}
{{- if and (eq $values.dags.delivery "configMap") (not $values.dags.files) }}{{ fail "dags.files: expected DAG files because dags.delivery is configMap, found none; add --set-file 'dags.files.NAME\\.py=dags/NAME.py' for each" }}{{ end }}
{{- if and $values.cronJob.enabled (not $values.cronJob.command) }}{{ fail "cronJob.command: expected a command because cronJob.enabled is true, found nothing" }}{{ end }}
{{- if and $values.cronJob.enabled (ne $values.runRoot.type "pvc") }}{{ fail "cronJob.enabled: expected runRoot.type pvc, because a pipeline without an orchestrator keeps its run in a folder; found s3" }}{{ end }}
{{- include "bmflow.checkVariables" (dict "values" $values "stages" $stages "store" (include "bmflow.storeSecrets" . | fromJsonArray)) }}
{{- if $values.networkPolicy.enabled }}{{ include "bmflow.checkEgress" $values }}{{ end }}
{{- end }}

{{- define "bmflow.checkVariables" -}}
{{- $secret := .store -}}
{{- range .stages }}{{ $secret = concat $secret .secrets | uniq }}{{ end }}
{{- range $name, $_ := .values.secrets.from }}
{{- if not (has $name $secret) }}{{ fail (printf "secrets.from.%s: no stage takes this variable from a secret; expected one of %s" $name ($secret | sortAlpha | join ", ")) }}{{ end }}
{{- end }}
{{- $given := dict "stagePods" .values.stagePods.env -}}
{{- range $name, $own := .values.stages }}{{ $_ := set $given (printf "stages.%s" $name) ($own.env | default dict) }}{{ end }}
{{- range $where, $env := $given }}
{{- range $name, $_ := $env }}
{{- if has $name $secret }}{{ fail (printf "%s.env.%s: a secret does not belong into values; put it into a secret and name that in secrets.existingSecret or secrets.from" $where $name) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bmflow.checkEgress" -}}
{{- $egress := .networkPolicy.egress -}}
{{- $needs := list -}}
{{- if eq .mlflow.mode "external" }}{{ $needs = append $needs (list "mlflow" "mlflow.mode is external") }}{{ end }}
{{- if eq .runRoot.type "s3" }}{{ $needs = append $needs (list "objectStore" "runRoot.type is s3") }}{{ end }}
{{- if and (eq .mlflow.mode "deploy") .mlflow.deploy.artifacts }}{{ $needs = append $needs (list "objectStore" "mlflow.deploy.artifacts is an object store") }}{{ end }}
{{- if and (eq .mlflow.mode "deploy") .mlflow.deploy.database.existingSecret }}{{ $needs = append $needs (list "database" "MLflow's database is outside the release") }}{{ end }}
{{- range $needs }}
{{- if not (index $egress (first .)) }}{{ fail (printf "networkPolicy.egress.%s: expected at least one egress rule because %s, found none, so pods could not reach it; give rules such as [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 443}]}], or set networkPolicy.enabled to false" (first .) (last .)) }}{{ end }}
{{- end }}
{{- end }}
