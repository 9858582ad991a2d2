# Read by every `bash -c` in the image (BASH_ENV), so also by the one in which KubeRay, or anybody, says `ray start`: what Serve's ingress
# needs has to be in the environment before Ray is. What the pod's own `env` sets, wins.
if [ -z "${BATON_ENV_IS_SET:-}" ]; then
    export BATON_ENV_IS_SET=1
    eval "$(baton env)"
fi
