// Lab brings up a whole multi-node cluster network on one machine, moves packets through it, breaks it, and shows what happened.
//
// Every node is a network namespace that runs the real podnet-agent and podnet-proxy processes; every pod is a network namespace that the real
// podnet-cni binary attaches, called through libcni with the conflist that the node's agent wrote. Nodes are joined by two layer-2 segments and
// a router; one more host stands outside the cluster. Nothing outside these namespaces is touched.
//
//	make lab                      # 3 nodes x 2 pods, dual-stack, VXLAN with direct routing, Services in nftables
//	bin/lab --backend host-gw --nodes 5 --pods 4 --family ipv4 --json
//	bin/lab --checks services --proxy iptables
//	make lab-ipvs                 # the checks of Services in mode ipvs, in a guest whose kernel has it
//
// With --kubernetes one more machine runs a real Kubernetes control plane (package test/controlplane): the nodes join it as Node objects, as kubelets
// make them, get their podCIDRs from kube-controller-manager, and their agents and proxies have the rights of the shipped manifests and no others. Services are the API server's,
// and their EndpointSlices kube-controller-manager's. Nodes then come, go and are replaced, and the API server is stopped.
//
//	make lab-kubernetes           # builds the control plane first, once
//
// docs/lab.md shows what both print and how to look around.
//
// The exit status is 0 only if every check passed; the last line is "N passed, M failed".
package main
