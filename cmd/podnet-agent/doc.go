// Podnet-agent is the node agent of podnet: it connects the pods of its node with those of all others. See docs/agent.md.
//
// What it does: it reads the Nodes of a Kubernetes cluster (package kubenode) or descriptions of nodes (package nodefile), and the cluster's network configuration, keeps the kernel of its
// network namespace as they say (packages vxlan or hostgw, and masq), and then writes the node's subnet file and the CNI configuration
// list. Its loop is package agent.
// It also takes over a node that flannel has set up, and gives it back (package takeover), and reads flanneld's command line (package flannelflags).
//
// What it owns: what those packages own and mark; the files that it wrote, as recorded in its state directory; that directory.
//
// What it never touches: anything else. Forwarding sysctls are turned on and stay on.
//
// Failure: a wrong flag or configuration is one error before anything is touched (exit status 2). Once it runs, nothing ends it but a signal, and
// then the network stays as it is. --cleanup removes it.
//
// Privileges and kernel: CAP_NET_ADMIN, root for /proc/sys and the state directory; Linux 5.3.
//
// Concurrency: one agent per state directory; a second one refuses to start.
package main
