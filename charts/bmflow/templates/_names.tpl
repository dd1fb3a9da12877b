{{- define "bmflow.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "bmflow.name" .) .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name (include "bmflow.name" .) | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "bmflow.name" -}}{{ .Values.nameOverride | default .Chart.Name }}{{- end }}

{{- define "bmflow.selector" -}}
app.kubernetes.io/name: {{ include "bmflow.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bmflow.labels" -}}
{{ include "bmflow.selector" . }}
app.kubernetes.io/part-of: bmflow
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "bmflow.metadata" -}}
name: {{ include "bmflow.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}
labels: {{- include "bmflow.labels" .root | nindent 2 }}
{{- end }}

{{- define "bmflow.image" -}}
{{- $image := index .root.Values.image .target -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "bmflow.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bmflow.componentsAccount" -}}
{{- $account := .Values.components.serviceAccount -}}
{{- $account.name | default (ternary (printf "%s-components" (include "bmflow.fullname" .)) "default" $account.create) }}
{{- end }}

{{- define "bmflow.orchestratorAccount" -}}
{{- .Values.orchestrator.serviceAccount.name | default (printf "%s-orchestrator" (include "bmflow.fullname" .)) }}
{{- end }}

{{- define "bmflow.runClaim" -}}
{{- .Values.runRoot.pvc.existingClaim | default (printf "%s-runs" (include "bmflow.fullname" .)) }}
{{- end }}

{{- define "bmflow.runRoot" -}}
{{- if eq .Values.runRoot.type "s3" }}{{ trimSuffix "/" .Values.runRoot.s3.uri }}{{ else }}/runs{{ end }}
{{- end }}

{{- define "bmflow.mlflowUri" -}}
{{- if eq .Values.mlflow.mode "external" }}{{ .Values.mlflow.uri -}}
{{ else }}http://{{ include "bmflow.fullname" . }}-mlflow.{{ .Release.Namespace }}.svc:{{ .Values.mlflow.deploy.port }}{{ end }}
{{- end }}

{{- define "bmflow.stages" -}}{{ .Files.Get "files/stages.yaml" }}{{- end }}
{{- define "bmflow.storeSecrets" -}}["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]{{- end }}
{{- define "bmflow.storeEnv" -}}["AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"]{{- end }}
