// Package kubeapi is the little that the agent needs of the Kubernetes API: list and watch Nodes, patch its own Node's status, write Events.
//
// What it does: client-go gives the configuration, authentication, TLS and transport (rotated tokens and certificates, HTTP/2 pings); the requests are
// made here. Nodes come as protobuf, from which only the few fields in use are read ([Node]); of an object of 10 KB about 200 bytes are ever
// allocated. A page of a list is decoded while it arrives. An informer over k8s.io/api's types would hold whole pages of whole Nodes
// and their images: at 5,000 nodes that is more than the rest of the agent.
//
// What it owns, what it touches: [Client.PatchNodeStatus], [Client.CreateEvent] and [Client.PatchEvent] write what they are told. Nothing else is written.
//
// Failure: what the server refuses is a [*StatusError] with its code, reason and, for 429 and 503, how long to wait; everything else is an error of
// the connection. A connection that is up but dead is given up after at most 45 s (HTTP/2 ping); a watch without any event or bookmark
// after [WatchIdle]. Nothing is retried here.
//
// Privileges: as its user in the cluster; see docs/kubernetes.md for the least.
//
// Concurrency: a Client may be used by many goroutines.
package kubeapi
