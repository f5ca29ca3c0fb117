// Package health answers those who ask whether this node serves Services, as kube-proxy does: paths, status codes, headers and bodies are the same.
//
// What it does: [Proxy] is the handler of /healthz and /livez. Both are 503 when a change has waited for longer than a limit (kube-proxy: twice syncPeriod) to get into the
// kernel; /healthz is 503 as well when the node does not exist, is being deleted, or bears the cluster autoscaler's taint, so that load balancers drain it.
// [Services] opens the healthCheckNodePort of each Service with externalTrafficPolicy Local: 200 if the node has ready endpoints of it and /livez is well, else 503.
//
// Differences to kube-proxy: a proxy that has been unable to program anything since it knows the Services is not healthy, and a Node that has been deleted counts as such
// although its last state said nothing of it.
//
// What it owns: the ports that it listens on. What it never touches: everything else.
//
// Failure: a port that cannot be opened is reported once, and tried again with each Tick. Privileges: none but for ports below 1024.
//
// Concurrency: everything may be called by several goroutines at once.
package health
