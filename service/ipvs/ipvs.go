package ipvs

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/service"
)

// ErrNoIPVS is a kernel without IPVS.
var ErrNoIPVS = errors.New("this kernel has no IPVS: load the module ip_vs (modprobe ip_vs); if there is no such module, the kernel was built without CONFIG_IP_VS: " +
	"take another kernel, or another mode, such as nftables")

// Options are the settings of a Dataplane. The zero Options work.
type Options struct {
	// Name tells several dataplanes in one network namespace apart: each has tables of its own, "podnet-service-ipvs" followed by a hash of the name. "" is
	// "podnet-service-ipvs". Give each its Protocol too.
	Name string

	// Scheduler is for Services that name none: one of Schedulers, with flags for sh and mh behind a colon ("sh:sh-port"). "" is rr, as with kube-proxy.
	Scheduler string

	// Protocol marks the local routes as ours (ip route, "proto"). 0 is rtnl.ProtocolService.
	Protocol rtnl.Protocol

	// Adopt takes over virtual servers of others that are where a Service wants one, with their connections, such as those that kube-proxy left. Without, they are left
	// alone and the Service fails.
	Adopt bool

	// Leave says which virtual servers Cleanup leaves as they are, with their connections: those that somebody else has taken over, such as kube-proxy on the way back to it.
	// nil leaves none.
	Leave func(Key) bool

	// StrictARP has the kernel answer ARP for addresses of the device only on which they are (arp_ignore=1, arp_announce=2 of all devices), so that it does not
	// answer for load balancer addresses that somebody else announces: MetalLB wants that. The addresses of Services are on no device, so no dummy device is needed for it.
	StrictARP bool

	// Timeouts change how long the kernel keeps silent connections. 0 leaves the kernel's (15 minutes, 2 minutes, 5 minutes). They are the network namespace's.
	Timeouts Timeouts

	// MaxDrain is how long a real server that is not wanted any more may keep its connections. 0 is as long as they last, and the kernel forgets silent ones by itself.
	MaxDrain time.Duration

	// CheckPeriod is how often Watch compares the virtual servers with what was written: the kernel tells of no changes. 0 is 10 s. Where that takes long, with tens of thousands of
	// real servers, it is less often: a hundredth of the time is spent on it at most.
	CheckPeriod time.Duration

	// DrainPeriod is how often Watch looks whether real servers that are not wanted any more have lost their connections. 0 is 1 s.
	DrainPeriod time.Duration

	// Logger gets a line about what is odd and repaired by itself. nil discards.
	Logger *slog.Logger
}

// Timeouts are how long the kernel keeps silent connections, in seconds; 0 leaves as it is.
type Timeouts struct {
	TCP, TCPFin, UDP uint32
}

// Validate says what is wrong with the Options.
func (o Options) Validate() error {
	var errs []error
	if _, _, err := parseScheduler(o.withDefaults().Scheduler); err != nil {
		errs = append(errs, fmt.Errorf("options: Scheduler: %w", err))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"MaxDrain", o.MaxDrain}, {"CheckPeriod", o.CheckPeriod}, {"DrainPeriod", o.DrainPeriod}} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("options: %s: %s is negative", d.name, d.value))
		}
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.Scheduler == "" {
		o.Scheduler = "rr"
	}
	if o.Protocol == 0 {
		o.Protocol = rtnl.ProtocolService
	}
	if o.CheckPeriod == 0 {
		o.CheckPeriod = 10 * time.Second
	}
	if o.DrainPeriod == 0 {
		o.DrainPeriod = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// capabilities are the same everywhere.
func capabilities() service.Capabilities {
	return service.Capabilities{Name: "ipvs", Protocols: []service.Protocol{service.TCP, service.UDP, service.SCTP}, Schedulers: Schedulers()}
}

// OpenOptions say which network namespace Open opens.
type OpenOptions struct {
	Netns     string // its path; "" is that of the calling thread
	SysctlDir string // see rtnl.Options
}
