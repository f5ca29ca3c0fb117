package rtnltest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/podnet/podnet/rtnl"
)

// Kernel is a fake kernel with any number of network namespaces. It is safe for several goroutines, and deterministic: the same
// calls give the same state, MAC addresses and dumps.
type Kernel struct {
	// Fault, if set, is called before each read and before each change of a Write; what it returns is the answer, and the call has
	// no effect. A syscall.Errno comes back as *rtnl.Error, as the kernel's own refusals do. Fault runs outside of the kernel's lock: it
	// may write to the same Kernel, and so play another actor at just that moment. Set it while nothing else uses the Kernel.
	Fault func(Call) error

	mu       sync.Mutex
	netns    map[string]*FakeNetns
	segments map[string]*Segment
	calls    int
	events   []delivery // made under mu, delivered after it is released
}

// Call is one system call on its way to the fake kernel.
type Call struct {
	N      int         // 1 for the first call to this Kernel
	Netns  string      // name of the namespace
	Method string      // method of rtnl.Conn: "Links", "Routes", "Write", ...
	Change rtnl.Change // of a Write, which makes one Call per change
}

// String returns the call as "NETNS: CHANGE" or "NETNS: METHOD".
func (c Call) String() string {
	if c.Method == "Write" {
		return c.Netns + ": " + c.Change.String()
	}
	return c.Netns + ": " + c.Method
}

// NewKernel returns a kernel without network namespaces.
func NewKernel() *Kernel {
	return &Kernel{netns: make(map[string]*FakeNetns), segments: make(map[string]*Segment)}
}

// Netns returns the network namespace of that name, or makes it: with "lo" up, as [NewNetns] does. A path below /run/netns is the same
// as its last element.
func (k *Kernel) Netns(name string) *FakeNetns {
	k.mu.Lock()
	defer k.unlock()
	name = netnsName(name)
	n := k.netns[name]
	if n == nil {
		n = newNetns(k, name)
		k.netns[name] = n
	}
	return n
}

// RemoveNetns ends a namespace and every device in it, as if its last process had gone; the other ends of its veth pairs go too.
// Calls on its FakeNetns fail from then on; [Kernel.Netns] makes a new one of the same name.
func (k *Kernel) RemoveNetns(name string) {
	k.mu.Lock()
	defer k.unlock()
	n := k.netns[netnsName(name)]
	if n == nil {
		return
	}
	for _, d := range n.sortedDevices() {
		if n.devices[d.Name] == d {
			d.remove()
		}
	}
	n.gone = true
	delete(k.netns, n.name)
}

// Segment returns the Ethernet segment of that name, or makes it. See [FakeNetns.AddUplink].
func (k *Kernel) Segment(name string) *Segment {
	k.mu.Lock()
	defer k.unlock()
	s := k.segments[name]
	if s == nil {
		s = &Segment{name: name}
		k.segments[name] = s
	}
	return s
}

// FinishDAD ends duplicate address detection. The fake has no clock: an IPv6 address written without NoDAD stays tentative, which
// means unusable, until here. An address that another station on the link has already is marked DADFailed.
func (k *Kernel) FinishDAD() {
	k.mu.Lock()
	defer k.unlock()
	for _, n := range k.sortedNetns() {
		for _, d := range n.sortedDevices() {
			d.finishDAD()
		}
	}
}

// unlock releases the lock, then delivers the events that were made under it.
func (k *Kernel) unlock() {
	events := k.events
	k.events = nil
	k.mu.Unlock()
	for _, e := range events {
		e.to.deliver(e.event)
	}
}

func (k *Kernel) sortedNetns() []*FakeNetns {
	return slices.SortedFunc(maps.Values(k.netns), func(a, b *FakeNetns) int { return strings.Compare(a.name, b.name) })
}

// Segment is an Ethernet segment: a switch without configuration that joins uplinks of several namespaces.
type Segment struct {
	name  string
	ports []*device
}

// AddUplink adds a physical device to the namespace, plugged into a segment, up, with these addresses (usable at once). It panics if the
// name is taken or an address is refused: a test that does that is wrong.
func (n *FakeNetns) AddUplink(name string, s *Segment, addrs ...netip.Prefix) {
	n.k.mu.Lock()
	defer n.k.unlock()
	if n.devices[name] != nil {
		panic(fmt.Sprintf("rtnltest: netns %s has a device %s already", n.name, name))
	}
	d := n.newDevice(rtnl.Link{Name: name, MTU: 1500, Up: rtnl.Off})
	d.segment = s
	s.ports = append(s.ports, d)
	d.setUp(true)
	for _, a := range addrs {
		if r := n.addAddr(rtnl.Addr{Link: name, Prefix: a, NoDAD: a.Addr().Is6()}); r != nil {
			panic(fmt.Sprintf("rtnltest: netns %s: addr %s dev %s: %v", n.name, a, name, r.errno))
		}
	}
	d.finishDAD()
}

// netnsName makes a name of a path below iproute2's directories.
func netnsName(s string) string {
	for _, dir := range []string{"/run/netns/", "/var/run/netns/"} {
		if name, ok := strings.CutPrefix(s, dir); ok {
			return name
		}
	}
	return s
}

// refusal is the kernel's answer to a request that it does not fulfil.
type refusal struct {
	errno   syscall.Errno
	missing bool
	detail  string
}

// refuse returns a refusal with the kernel's words.
func refuse(errno syscall.Errno, detail string) *refusal {
	return &refusal{errno: errno, detail: detail}
}

// absent returns the refusal that means "there is no such object".
func absent(errno syscall.Errno) *refusal { return &refusal{errno: errno, missing: true} }

// unmodelled is the answer to what the fake does not know: never silent success.
func unmodelled(what string) *refusal {
	return &refusal{errno: syscall.EOPNOTSUPP, detail: "rtnltest does not model " + what}
}

func (r *refusal) error(op, object string) error {
	if r == nil {
		return nil
	}
	return &rtnl.Error{Op: op, Object: object, Errno: r.errno, Detail: r.detail, Missing: r.missing || r.errno == syscall.ENODEV}
}
