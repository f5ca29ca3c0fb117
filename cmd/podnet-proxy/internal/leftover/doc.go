// Package leftover removes what kube-proxy left in a network namespace: for the move from kube-proxy to podnet-proxy.
//
// What it does: [Remove] removes, in this order, the tables ip and ip6 kube-proxy of nftables; kube-proxy's chains in every variant of iptables (legacy and nft, both
// families) and the rules that jump to them, one restore per table; its IPVS virtual servers; the device kube-ipvs0; its ipsets of both families, KUBE-6-* too, which
// kube-proxy --cleanup itself forgets. [Find] and [Virtual] only look.
//
// How it recognises them: tables, chains, sets and the device by kube-proxy's names. A virtual server is kube-proxy's if its address is on kube-ipvs0, if an ipset of
// kube-proxy has its address and port, or if it is at an address of the node and an ipset has its port as a NodePort.
// Those that the caller wants to keep, since it has taken them over, stay. kube-proxy --cleanup flushes all of them, also other people's.
//
// What it never touches: kubelet's chains (KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, KUBE-FIREWALL), and KUBE-MARK-MASQ and KUBE-POSTROUTING as long as somebody else's
// rule jumps to the former; sysctls; connection tracking, so that connections through nftables and iptables live on. Those through IPVS end.
//
// Failure: one kind that fails does not stop the others. A variant of iptables that is not installed is passed over; what it may have left is reported where the kernel shows
// it. A second call finds nothing.
//
// Privileges: CAP_NET_ADMIN, and /run/xtables.lock for iptables-legacy. Concurrency: stop kube-proxy first.
package leftover
