// Package flannel reads and writes the annotations by which flannel's nodes find each other, so that podnet's nodes and flannel's can work in
// one cluster and a node can change from the one to the other.
//
//	flannel.alpha.coreos.com/kube-subnet-manager: "true"
//	flannel.alpha.coreos.com/backend-type: vxlan                # or host-gw, alloc, wireguard, ...
//	flannel.alpha.coreos.com/backend-data: {"VNI":1,"VtepMAC":"02:42:0a:f4:01:00"}     # null with host-gw
//	flannel.alpha.coreos.com/backend-v6-data: {"VNI":1,"VtepMAC":"..."}                # IPv6, if enabled
//	flannel.alpha.coreos.com/public-ip: 192.168.1.11            # and public-ipv6: where the node is reached
//	flannel.alpha.coreos.com/public-ip-overwrite: 203.0.113.7   # by the administrator, and public-ipv6-overwrite: publish this instead
//	flannel.alpha.coreos.com/node-public-ip: 192.168.1.11       # by the administrator, and node-public-ipv6: send from this address
//
// What it does: [NewKeys] makes the keys of a prefix, [Keys.Decode] reads the annotations of one node, [Keys.Encode] writes those that an agent
// publishes. Formats as of flannel v0.28 (pkg/subnet/kube, 2026-08).
//
// What it owns, what it touches: nothing. It is pure.
//
// Failure: whoever may annotate a node writes these, so every value is bounded and checked; Decode returns every fault as an [Error] with
// annotation and value, and the rest of what it could read. It never panics (FuzzAnnotations).
//
// Privileges: none. Concurrency: values; nothing is shared.
package flannel
