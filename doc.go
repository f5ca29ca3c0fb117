// Package podnet is the root of an embeddable library for Kubernetes pod networking; it holds no code of its own.
//
// Each concern is a package that stands alone: ipam (cluster CIDR to node podCIDR to pod IP), bridge and veth (a pod's link), vxlan and
// hostgw (routes to the other nodes), masq (SNAT of what leaves the cluster), and rtnl, the kernel vocabulary that they share. The
// commands below cmd/ compose them into a CNI plugin and a node agent; examples/ shows how a project embeds them.
package podnet
