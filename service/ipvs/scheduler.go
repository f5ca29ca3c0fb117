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

// Schedulers returns the names of the kernel's schedulers. A kernel may lack some.
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
