package ipvs

import (
	"fmt"
	"slices"
	"strings"
)

// schedulers are those of Linux 6.18 (net/netfilter/ipvs): the module is "ip_vs_" and the name, the option CONFIG_IP_VS_ and the name in capitals.
var schedulers = []string{"dh", "fo", "lblc", "lblcr", "lc", "mh", "nq", "ovf", "rr", "sed", "sh", "twos", "wlc", "wrr"}

// schedulerFlags are ipvsadm's names for what sh and mh can be told.
var schedulerFlags = map[string]map[string]Flags{
	"sh": {"sh-fallback": Sched1, "sh-port": Sched2},
	"mh": {"mh-fallback": Sched1, "mh-port": Sched2},
}

// loadFirst are schedulers whose modules must be loaded before somebody wants them, and the setting that shows that they are. The kernel loads a missing one while it holds IPVS's lock; the
// modules of these register with all network namespaces, which waits for the end of those that are being removed, which waits for IPVS's lock: all network namespaces hang
// (Linux 6.1.192, seen after six attempts to meet the moment).
var loadFirst = map[string]string{"lblc": "net/ipv4/vs/lblc_expiration", "lblcr": "net/ipv4/vs/lblcr_expiration"}

// notLoaded is about a scheduler of loadFirst.
func notLoaded(name string, err error) error {
	return fmt.Errorf("scheduler %s: its module ip_vs_%s (CONFIG_IP_VS_%s) is not loaded: modprobe ip_vs_%s; it is not left to the kernel, which can hang over it: %w",
		name, name, strings.ToUpper(name), name, err)
}

// Schedulers returns the names of the kernel's schedulers. A kernel may lack some. The modules of lblc and lblcr must be loaded before.
func Schedulers() []string { return slices.Clone(schedulers) }

// parseScheduler reads the name of a scheduler, with flags behind a colon: "rr", "sh:sh-port,sh-fallback". mh without flags hashes the port too, as kube-proxy has it.
func parseScheduler(text string) (name string, flags Flags, err error) {
	name, list, given := strings.Cut(text, ":")
	if !slices.Contains(schedulers, name) {
		return "", 0, fmt.Errorf("scheduler %q is unknown; want one of %s", name, strings.Join(schedulers, ", "))
	}
	if !given {
		if name == "mh" {
			flags = Sched2
		}
		return name, flags, nil
	}
	for one := range strings.SplitSeq(list, ",") {
		f, ok := schedulerFlags[name][one]
		if !ok {
			return "", 0, fmt.Errorf("scheduler %q: flag %q is unknown; want sh-fallback or sh-port with sh, mh-fallback or mh-port with mh", text, one)
		}
		flags |= f
	}
	return name, flags, nil
}
