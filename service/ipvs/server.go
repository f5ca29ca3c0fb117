package ipvs

import (
	"cmp"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"syscall"

	"github.com/podnet/podnet/service"
)

// Key names a virtual server: an address, port and protocol, or a firewall mark.
type Key struct {
	Family   service.Family
	Protocol service.Protocol // 0 with Mark
	Addr     netip.AddrPort   // the zero AddrPort with Mark
	Mark     uint32           // 0 with Addr
}

// String returns the key as ipvsadm(8) takes it, such as "-t 10.96.0.1:443" or "-f 7 -6".
func (k Key) String() string {
	switch {
	case k.Mark != 0 && k.Family == service.IPv6:
		return fmt.Sprintf("-f %d -6", k.Mark)
	case k.Mark != 0:
		return fmt.Sprintf("-f %d", k.Mark)
	case k.Protocol == service.TCP:
		return "-t " + k.Addr.String()
	case k.Protocol == service.UDP:
		return "-u " + k.Addr.String()
	}
	return "--sctp-service " + k.Addr.String()
}

func (k Key) compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Family, o.Family), cmp.Compare(k.Mark, o.Mark), k.Addr.Compare(o.Addr), cmp.Compare(k.Protocol, o.Protocol))
}

// Flags are a virtual server's flags (include/uapi/linux/ip_vs.h). Only those that this package sets are known to it.
type Flags uint32

// The flags of a virtual server. What the scheduler flags mean is the scheduler's: for sh and mh Sched1 is the fallback to another real server when one is not
// available, Sched2 hashes the client's port too.
const (
	Persistent Flags = 1 << 0 // a client stays with its real server, see Settings.Timeout
	Sched1     Flags = 1 << 3
	Sched2     Flags = 1 << 4
	Sched3     Flags = 1 << 5

	hashed Flags = 1 << 1 // the kernel's own
)

// Settings are how a virtual server works.
type Settings struct {
	Scheduler string // the kernel's name, such as "rr"
	Flags     Flags
	Timeout   uint32 // seconds until a silent client of a Persistent server is forgotten
}

// Real is a real server.
type Real struct {
	Addr   netip.AddrPort
	Weight int32 // 0 gets no new connections

	// Active and Inactive are its connections, and Foreign says that it does not forward by masquerading: observed only.
	Active, Inactive uint32
	Foreign          bool
}

// idle reports whether a real server has no connections.
func (r Real) idle() bool { return r.Active == 0 && r.Inactive == 0 }

// Server is a virtual server with its real servers.
type Server struct {
	Key
	Settings
	Reals []Real // sorted by address
}

// Verb says what a Change does.
type Verb uint8

// The verbs. Each has the strictness of the kernel: what exists cannot be added, what is missing cannot be set or deleted.
const (
	AddServer Verb = iota
	SetServer
	DeleteServer // with its real servers
	AddReal
	SetReal
	DeleteReal
)

// Change is one write to the kernel's IPVS. Settings belong to AddServer and SetServer, Real to the verbs of real servers.
type Change struct {
	Verb     Verb
	Key      Key
	Settings Settings
	Real     netip.AddrPort
	Weight   int32
}

// String returns the change as the arguments of ipvsadm(8).
func (c Change) String() string {
	server := c.Key.String()
	real := strings.NewReplacer("-t ", "", "-u ", "").Replace(c.Real.String())
	switch c.Verb {
	case AddServer:
		return "-A " + server + c.Settings.String()
	case SetServer:
		return "-E " + server + c.Settings.String()
	case DeleteServer:
		return "-D " + server
	case AddReal:
		return fmt.Sprintf("-a %s -r %s -m -w %d", server, real, c.Weight)
	case SetReal:
		return fmt.Sprintf("-e %s -r %s -m -w %d", server, real, c.Weight)
	}
	return fmt.Sprintf("-d %s -r %s", server, real)
}

// String returns the settings as ipvsadm(8) takes them, with a leading space.
func (s Settings) String() string {
	text := " -s " + s.Scheduler
	if s.Flags&Persistent != 0 {
		text += fmt.Sprintf(" -p %d", s.Timeout)
	}
	var flags []string
	for i, f := range []Flags{Sched1, Sched2, Sched3} {
		if s.Flags&f != 0 {
			flags = append(flags, fmt.Sprintf("flag-%d", i+1))
		}
	}
	if len(flags) > 0 {
		text += " -b " + strings.Join(flags, ",")
	}
	return text
}

// Error is a refusal by the kernel. It unwraps to its Errno.
type Error struct {
	Change Change
	Errno  syscall.Errno
}

// Error returns the change, what the errno means there, and the errno.
func (e *Error) Error() string {
	if module, option := e.missingScheduler(); module != "" {
		return fmt.Sprintf("ipvsadm %s: the kernel has no scheduler %s: load the module %s (%s), or choose another: %v", e.Change, e.Change.Settings.Scheduler, module, option, e.Errno)
	}
	return fmt.Sprintf("ipvsadm %s: %v", e.Change, e.Errno)
}

// missingScheduler names the module and the kernel's option of a scheduler if that is why the change was refused.
func (e *Error) missingScheduler() (module, option string) {
	if e.Errno != syscall.ENOENT || e.Change.Verb != AddServer && e.Change.Verb != SetServer {
		return "", ""
	}
	return "ip_vs_" + e.Change.Settings.Scheduler, "CONFIG_IP_VS_" + strings.ToUpper(e.Change.Settings.Scheduler)
}

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.Errno }

// Is matches fs.ErrNotExist if the virtual server is missing (ESRCH). By their errnos an Error matches fs.ErrExist, and fs.ErrNotExist if the real server or the scheduler is missing.
func (e *Error) Is(target error) bool { return target == fs.ErrNotExist && e.Errno == syscall.ESRCH }
