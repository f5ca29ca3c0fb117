// Package kubenode is the agent's view of the Node objects of a Kubernetes cluster, and what it says of its own one.
//
// What it does: [Source.Run] lists the Nodes page by page and watches them from there, and makes of each what the agent works with: podCIDRs from
// spec, addresses and VTEP MACs from the annotations that flannel and podnet publish, else the InternalIP and a MAC derived from the name.
// [Publisher.Run] keeps the annotations of this node, its condition NetworkUnavailable, and Events that say what is wrong.
//
// What it owns: on this node's Node object the annotations of package flannel that an agent publishes and the condition NetworkUnavailable; the
// Events that it wrote; the file nodes.json in the state directory.
//
// What it never touches: other Nodes, Pods, spec, labels.
//
// Failure: while the API server is away, everything stays as it was; an agent that starts then works with the file, and says so. A node that is
// faulty is reported and left out, one that was good before is kept as it was, and so is, for a minute, one whose annotations were wiped. Where
// two claim the same podCIDR, address or MAC, the older Node has it on all nodes alike. Requests that fail are repeated
// with exponential back-off up to 20 s, or as the server says.
//
// Privileges: nodes get/list/watch, nodes/status patch, events create/patch; see docs/kubernetes.md.
//
// Concurrency: Snapshot and Observe may be called by many goroutines; Run is for one.
package kubenode
