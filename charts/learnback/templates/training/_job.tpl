{{/*
The object that a training run is made from. The retraining process names it and fills in ${RUN_ID}, ${RUN_NAME} and
${RUN_FOLDER} (decision 0010); everything else is decided here.
*/}}

{{- define "learnback.training.manifest" -}}
{{- if .Values.training.jobSet.enabled -}}
{{- include "learnback.training.jobSet" . -}}
{{- else if .Values.training.trainJob.enabled -}}
{{- include "learnback.training.trainJob" . -}}
{{- else -}}
{{- include "learnback.training.job" . -}}
{{- end -}}
{{- end -}}

{{- define "learnback.training.metadata" -}}
labels:
  {{- include "learnback.labels" (dict "root" . "component" "training") | nindent 2 }}
  {{- with .Values.training.kueue.queueName }}
  kueue.x-k8s.io/queue-name: {{ . }}
  {{- end }}
{{- end -}}

{{/* Kueue lets a suspended Job start; without a queue nobody would. */}}
{{- define "learnback.training.suspend" -}}
{{- ne .Values.training.kueue.queueName "" -}}
{{- end -}}

{{- define "learnback.training.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "learnback.training.metadata" . | nindent 2 }}
spec:
  suspend: {{ include "learnback.training.suspend" . }}
  completions: 1
  parallelism: 1
  backoffLimit: {{ .Values.training.backoffLimit }}
  activeDeadlineSeconds: {{ int64 .Values.training.activeDeadlineSeconds }}
  ttlSecondsAfterFinished: {{ int64 .Values.training.ttlSecondsAfterFinished }}
  # the next pod only when the one before is really gone: two must never write one folder
  podReplacementPolicy: Failed
  podFailurePolicy:
    rules:
      - action: Ignore
        onPodConditions:
          - type: DisruptionTarget
            status: "True"
      # bad data, out of memory, diverged: the same run fails the same way
      - action: FailJob
        onExitCodes:
          containerName: training
          operator: In
          values: [65, 71, 76]
      # SIGTERM: a checkpoint is kept
      - action: Ignore
        onExitCodes:
          containerName: training
          operator: In
          values: [75]
  template:
    {{- include "learnback.training.pod" (dict "root" . "command" (list "python3" "-m" "learnback.retraining.job" "${RUN_FOLDER}")) | nindent 4 }}
{{- end -}}

{{/* One Job of several pods, which restart together. */}}
{{- define "learnback.training.jobSet" -}}
{{- $nodes := int .Values.training.jobSet.replicas -}}
{{- $first := "${RUN_NAME}-node-0-0.${RUN_NAME}:29400" -}}
{{- /* torchrun's "auto" would count the node's cores where there is no GPU */}}
{{- $processes := ternary "gpu" "1" (eq .Values.training.device "gpu") -}}
{{- $command := list "python3" "-m" "learnback.retraining.several" (printf "--nnodes=%d" $nodes) (printf "--nproc-per-node=%s" $processes) "--max-restarts=0" "--rdzv-backend=c10d" (printf "--rdzv-endpoint=%s" $first) "--rdzv-id=${RUN_NAME}" "${RUN_FOLDER}" -}}
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  {{- include "learnback.training.metadata" . | nindent 2 }}
spec:
  suspend: {{ include "learnback.training.suspend" . }}
  ttlSecondsAfterFinished: {{ int64 .Values.training.ttlSecondsAfterFinished }}
  network:
    enableDNSHostnames: true
  failurePolicy:
    maxRestarts: {{ .Values.training.backoffLimit }}
    rules:
      - name: hopeless
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: node
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          completions: {{ $nodes }}
          parallelism: {{ $nodes }}
          # one that is lost takes the others with it: all begin again from the checkpoint
          backoffLimit: 0
          activeDeadlineSeconds: {{ int64 .Values.training.activeDeadlineSeconds }}
          podReplacementPolicy: Failed
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: training
                  operator: In
                  values: [65, 71, 76]
          template:
            {{- include "learnback.training.pod" (dict "root" . "command" $command) | nindent 12 }}
{{- end -}}

{{/* "root", "command". No token, no password, no API key: what it reads and writes is the run's folder. */}}
{{- define "learnback.training.pod" -}}
{{- $values := .root.Values -}}
{{- $home := include "learnback.home" .root -}}
{{- $component := dict "root" .root "component" "training" "values" $values.training "model" true -}}
metadata:
  labels:
    {{- include "learnback.podLabels" $component | nindent 4 }}
    learnback.dev/run: ${RUN_NAME}
  {{- with $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "learnback.podSpec" (merge (dict "values" (merge (dict "affinity" (include "learnback.training.affinity" .root | fromYaml)) $values.training)) $component) | nindent 2 }}
  restartPolicy: Never
  terminationGracePeriodSeconds: {{ int64 $values.training.terminationGracePeriodSeconds }}
  {{- with $values.training.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  containers:
    - name: training
      image: {{ include "learnback.image" (dict "root" .root "name" $values.training.device) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command:
        {{- toYaml .command | nindent 8 }}
      env:
        - name: HOME
          value: /tmp
        - name: USER
          value: learnback
        {{- $given := concat $values.extraEnv $values.training.extraEnv | toJson }}
        {{- if not (contains "\"TOKENIZERS_PARALLELISM\"" $given) }}
        - name: TOKENIZERS_PARALLELISM
          value: "false"
        {{- end }}
        {{- if not (contains "\"OMP_NUM_THREADS\"" $given) }}
        - name: OMP_NUM_THREADS
          valueFrom:
            resourceFieldRef:
              containerName: training
              resource: requests.cpu
        {{- end }}
        {{- include "learnback.training.runEnv" .root | nindent 8 }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      resources:
        {{- toYaml $values.training.resources | nindent 8 }}
      securityContext:
        {{- include "learnback.containerSecurityContext" .root | nindent 8 }}
      volumeMounts:
        - name: runs
          mountPath: ${RUN_FOLDER}
          subPath: ${RUN_ID}
        - name: cache
          mountPath: {{ $home }}/cache
        - name: tmp
          mountPath: /tmp
        {{- include "learnback.training.runMounts" .root | nindent 8 }}
        {{- if eq (include "learnback.modelOnVolume" .root) "true" }}
        - name: model
          mountPath: /models
          readOnly: true
        {{- end }}
  volumes:
    - name: runs
      persistentVolumeClaim:
        claimName: {{ include "learnback.checkpointClaim" .root }}
    - name: cache
      emptyDir: {}
    - name: tmp
      emptyDir: {}
    {{- include "learnback.training.runVolumes" .root | nindent 4 }}
    {{- if eq (include "learnback.modelOnVolume" .root) "true" }}
    {{- include "learnback.modelVolume" .root | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Beside the retraining pod, where the volume of run folders can be mounted on one node only. */}}
{{- define "learnback.training.affinity" -}}
{{- if eq (include "learnback.checkpointOnOneNode" .) "true" -}}
podAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          {{- include "learnback.selectorLabels" (dict "root" . "component" "retraining") | nindent 10 }}
{{- end -}}
{{- end -}}
