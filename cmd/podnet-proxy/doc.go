// Podnet-proxy serves Kubernetes Services on a node, in kube-proxy's place. See docs/proxy.md.
//
// What it does: it reads kube-proxy's configuration file and command line (package proxyconfig), takes Services and EndpointSlices from a Kubernetes API server
// (service/kube) or from files (package servicefile), and keeps a dataplane as they say (service, with service/nft, service/ipvs or service/iptables). It deletes stale
// UDP flows (service/conntrack), and answers /healthz, /livez, /metrics and healthCheckNodePorts as kube-proxy does.
//
// What it owns: what its dataplane owns and marks, in its network namespace, and the ports that it listens on. It has no files.
//
// What it never touches: anything else. Connection tracking sysctls that the configuration names are set and stay set. --cleanup-kube-proxy removes what kube-proxy
// left, and only when asked (package leftover).
//
// Failure: a wrong flag or configuration, and a kernel that lacks what the mode needs, is one error before anything is touched (exit status 2 and 1). Once it runs,
// nothing ends it but a signal, and then the Services work on as they are: a restart cuts no connection. --cleanup removes everything.
//
// Privileges and kernel: CAP_NET_ADMIN; root for the sysctls, which --init-only sets and ends. Kernel versions are those of the dataplanes.
//
// Concurrency: one podnet-proxy per network namespace; a second one refuses to start.
package main
