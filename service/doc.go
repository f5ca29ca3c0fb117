// Package service decides what a node does with traffic to Kubernetes Services, and keeps a dataplane so: the thinking of kube-proxy as a library.
//
// # What it does
//
// A [Service] is a set of addresses and ports in front of endpoints; a [Slice] is a part of its endpoints (an EndpointSlice). A [Tracker] holds them and knows which
// Services changed. From one Service, its slices and the [Node], a pure function makes a [Program]: per port and family the frontends (an address and port, or a
// NodePort), for each of them where a packet from a local pod, from the node itself and from elsewhere goes ([Route]), and the two endpoint sets Cluster and Local.
// A [Dataplane] puts programs into a kernel: service/nft (nftables), service/ipvs (IPVS), service/iptables. A [Reconciler] holds all this together:
//
//	SetService, SetSlice, ... -> Tracker (dirty names) -> Program -> Delta -> Dataplane.Apply -> a result per name
//
// The work of a change depends on the changed Service, not on how many there are. [Reconciler.Apply] takes a whole [Config] instead, for users who have the
// desired state at hand; service/kube feeds a Reconciler from a Kubernetes API.
//
// The semantics are those of kube-proxy 1.36: KEP-2086 and KEP-1669 (traffic policies, terminating endpoints), KEP-2433, KEP-4444 and KEP-3015 (topology), KEP-1860 (ipMode). docs/services.md
// lists them; service/servicetest holds them as data, with an oracle of its own.
//
// # What it owns
//
// Nothing in a kernel: the dataplanes own theirs, and say in their documentation how they recognise it.
//
// # Bad input
//
// What is wrong with a Service or an endpoint (a link-local endpoint, an external IP that is a node's) is a [Fault]: that part is left out, everything else is programmed,
// and the [Report] of the sync names field, value and what is allowed. When two Services claim one address and port, the older one has it (a ClusterIP before all
// else), until it goes.
//
// # Failure
//
// A Service that the dataplane could not program stays dirty and is tried again with back-off; what was programmed before stays. After a failure as a whole, the dataplane
// reads its kernel anew before it writes. Nothing is programmed before the first call of Sync or Run, so that no half-filled list ever reaches a kernel: fill the Reconciler first.
//
// # Privileges and concurrency
//
// None of its own; see the dataplanes. A [Reconciler] may be used by several goroutines at once, a [Tracker] by one. Nothing here starts a goroutine but [Reconciler.Run], which waits for it.
package service
