package kubeapi

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Node is what is used of a core/v1 Node.
type Node struct {
	Name            string
	UID             string
	ResourceVersion string
	Created         int64             // seconds since 1970
	Annotations     map[string]string // those with the Client's prefix
	PodCIDRs        []string
	Addresses       []Address // of the types InternalIP and ExternalIP
	Network         Condition // of type NetworkUnavailable
}

// Address is where a node is reached, as its kubelet or cloud says.
type Address struct{ Type, Address string }

// Types of addresses and conditions.
const (
	InternalIP         = "InternalIP"
	ExternalIP         = "ExternalIP"
	NetworkUnavailable = "NetworkUnavailable"
)

// Condition is a condition of a node; the zero Condition: there is none.
type Condition struct{ Status, Reason, Message string }

// ListMeta is what a list says of itself.
type ListMeta struct {
	ResourceVersion string
	Continue        string // not empty: there are more
	Remaining       int64
}

// Opened is the type of the first event of a watch, which has no Node: the server has answered.
const Opened = "OPENED"

// Event is what a watch says: [Opened], ADDED, MODIFIED, DELETED, or BOOKMARK, whose Node has only a ResourceVersion.
type Event struct {
	Type string
	Node Node
}

// StatusError is what the API server answered instead of what was asked for.
type StatusError struct {
	Code    int // HTTP status
	Reason  string
	Message string
	Wait    time.Duration // at least, before the next try; 0: not said
}

func (e *StatusError) Error() string {
	text := e.Message
	if text == "" {
		text = "no message"
	}
	return fmt.Sprintf("%d %s: %s", e.Code, e.Reason, text)
}

// Gone reports whether the version or the continuation that was asked for is too old: list anew.
func (e *StatusError) Gone() bool {
	return e.Code == 410 || e.Reason == "Expired" || e.Reason == "Gone"
}

// maxWait bounds what a server, or something in between, may have us wait.
const maxWait = 5 * time.Minute

func (e *StatusError) retryAfter(seconds int64) {
	if seconds > 0 {
		e.Wait = min(time.Duration(min(seconds, 3600))*time.Second, maxWait)
	}
}

// clean makes what a server says fit for a log line.
func clean(s string) string {
	const most = 512
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
