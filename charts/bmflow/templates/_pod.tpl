{{/* What every pod of the chart has in common: nobody, no token, no capability, nothing written to the image. */}}
{{- define "bmflow.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "bmflow.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Environment variables: of the run, of the stage, of the installation; then those from secrets. Later ones win over earlier ones. */}}
{{- define "bmflow.env" -}}
{{- $values := .root.Values -}}
{{- $env := dict "HOME" "/tmp" "BMFLOW_RUN_ROOT" (include "bmflow.runRoot" .root) -}}
{{- $known := dict "MLFLOW_TRACKING_URI" (include "bmflow.mlflowUri" .root) "AWS_ENDPOINT_URL" $values.runRoot.s3.endpoint "AWS_DEFAULT_REGION" $values.runRoot.s3.region "BMFLOW_USER" (printf "%s/%s" .root.Release.Namespace .root.Release.Name) -}}
{{- range $name := .names }}{{- if index $known $name }}{{- $_ := set $env $name (index $known $name) }}{{- end }}{{- end -}}
{{- $env = merge (dict) (.own | default dict) $values.stagePods.env $env -}}
{{- range $name, $value := $env }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- range $name := .secrets }}
{{- $source := index $values.secrets.from $name | default (dict "secret" $values.secrets.existingSecret "key" $name) }}
{{- if $source.secret }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ $source.secret }}, key: {{ $source.key }}, optional: true}
{{- end }}
{{- end }}
{{- end }}

{{/* The pod of work on the run root. root, component, stage, labels, image, command, env names, secrets, own env, cpu, memory, timeout, placement. */}}
{{- define "bmflow.workPod" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $place := .place | default dict -}}
serviceAccountName: {{ include "bmflow.componentsAccount" $root }}
automountServiceAccountToken: false
enableServiceLinks: false
restartPolicy: Never
terminationGracePeriodSeconds: 30
activeDeadlineSeconds: {{ .timeout | int64 }}
securityContext: {{- include "bmflow.podSecurity" $root | nindent 2 }}
{{- include "bmflow.pullSecrets" $root }}
{{- with $place.nodeSelector | default $values.stagePods.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $place.tolerations | default $values.stagePods.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $place.affinity | default $values.stagePods.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $place.priorityClassName | default $values.stagePods.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.stagePods.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
containers:
  - name: base
    image: {{ include "bmflow.image" (dict "root" $root "target" .image) }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    command: {{- toYaml .command | nindent 6 }}
    env: {{- include "bmflow.env" . | trim | nindent 6 }}
    resources:
      requests: {cpu: {{ .cpu | quote }}, memory: {{ .memory }}}
      limits: {cpu: {{ .cpu | quote }}, memory: {{ .memory }}}
    securityContext: {{- include "bmflow.containerSecurity" $root | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- if eq $values.runRoot.type "pvc" }}
      - {name: runs, mountPath: /runs}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: {{ $values.stagePods.tmpSize }}}
  {{- if eq $values.runRoot.type "pvc" }}
  - name: runs
    persistentVolumeClaim: {claimName: {{ include "bmflow.runClaim" $root }}}
  {{- end }}
{{- end }}

{{/* Labels of a pod that network policies go by. */}}
{{- define "bmflow.workLabels" -}}
{{ include "bmflow.labels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- with .stage }}
bmflow/stage: {{ . }}
{{- end }}
bmflow/network: {{ or .network (eq .root.Values.runRoot.type "s3") | toString | quote }}
bmflow/mlflow: {{ has "MLFLOW_TRACKING_URI" .names | toString | quote }}
{{- end }}

{{/* One stage as a whole Pod. root, name, spec of files/stages.yaml. */}}
{{- define "bmflow.stagePod" -}}
{{- $root := .root -}}
{{- $own := index $root.Values.stages .name | default dict -}}
{{- $spec := merge (dict) (pick $own "cpu" "memory" "timeoutSeconds") .spec -}}
{{- $s3 := eq $root.Values.runRoot.type "s3" -}}
{{- $names := $spec.env -}}
{{- $secrets := $spec.secrets -}}
{{- if $s3 }}
{{- $names = concat $names (include "bmflow.storeEnv" $root | fromJsonArray) | uniq }}
{{- $secrets = concat $secrets (include "bmflow.storeSecrets" $root | fromJsonArray) | uniq }}
{{- end }}
{{- $facts := dict
      "root" $root "component" "stage" "stage" .name "network" $spec.network "image" $spec.image
      "command" (list "python" "-m" "bmflow_components" .name) "names" $names "secrets" $secrets "own" $own.env
      "cpu" $spec.cpu "memory" $spec.memory "timeout" $spec.timeoutSeconds "place" $own -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "bmflow.fullname" $root }}-{{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "bmflow.workLabels" $facts | nindent 4 }}
    {{- with $root.Values.stagePods.labels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with $root.Values.stagePods.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec: {{- include "bmflow.workPod" $facts | nindent 2 }}
{{- end }}
