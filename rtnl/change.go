package rtnl

import "strings"

// Verb is what a Change does.
type Verb uint8

// The verbs. Which of them an object kind knows:
//
//	Link             Add, Set (non-zero fields of an existing link), Delete
//	Addr             Add, Delete
//	Route, Nexthop   Add, Replace (add if missing), Delete
//	Neigh, FDB       Add, Replace (add if missing), Delete
//	Sysctl           Set
//
// Any other pair is refused with EOPNOTSUPP. Adding a Link is done wholly or not at all, though it may take the kernel several messages. Deleting a
// Route goes by its key and by gateway, device, protocol and type as far as they are given; deleting another object by its key.
const (
	Add Verb = iota + 1
	Replace
	Set
	Delete
)

// String returns the iproute2 verb.
func (v Verb) String() string {
	switch v {
	case Add:
		return "add"
	case Replace:
		return "replace"
	case Set:
		return "set"
	case Delete:
		return "del"
	}
	return "invalid"
}

// Change is one write to the kernel. It is comparable.
type Change struct {
	Verb   Verb
	Object Object
}

// String returns the change in iproute2 (or sysctl) syntax, without the leading "ip".
func (c Change) String() string {
	if c.Object == nil {
		return "invalid change"
	}
	kind, rest, _ := strings.Cut(c.Object.String(), " ")
	if kind == "sysctl" {
		return kind + " -w " + rest
	}
	return kind + " " + c.Verb.String() + " " + rest
}

// Plan is a list of writes in the order in which they are to be done. The zero Plan is empty: nothing differs.
type Plan []Change

// String returns one line per change.
func (p Plan) String() string {
	var b strings.Builder
	for _, c := range p {
		b.WriteString(c.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// Empty reports whether there is nothing to write.
func (p Plan) Empty() bool { return len(p) == 0 }
