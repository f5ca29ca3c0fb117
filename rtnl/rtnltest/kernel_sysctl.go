package rtnltest

import (
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/podnet/podnet/rtnl"
)

// sysctls holds the settings that differ from their default, by directory ("net/ipv6/conf/eth0") and key. A device's directories come and
// go with it.
type sysctls map[string]map[string]string

func (s sysctls) set(dir, key, value string) {
	if s[dir] == nil {
		s[dir] = make(map[string]string)
	}
	s[dir][key] = value
}

// valueIn returns the value of a key in a list of defaults.
func valueIn(list, key string) (string, bool) {
	_, rest, ok := strings.Cut(list, " "+key+"=")
	value, _, _ := strings.Cut(rest, " ")
	return value, ok
}

// confName splits "net/ipv6/conf/eth0/accept_ra".
func confName(name string) (family rtnl.Family, dev, key string, ok bool) {
	switch rest, is4 := strings.CutPrefix(name, "net/ipv4/conf/"); {
	case is4:
		family = rtnl.IPv4
		dev, key, ok = strings.Cut(rest, "/")
	default:
		family = rtnl.IPv6
		if rest, ok = strings.CutPrefix(name, "net/ipv6/conf/"); ok {
			dev, key, ok = strings.Cut(rest, "/")
		}
	}
	return family, dev, key, ok && !strings.Contains(key, "/")
}

func confPath(f rtnl.Family, dev string) string {
	if f == rtnl.IPv4 {
		return "net/ipv4/conf/" + dev
	}
	return "net/ipv6/conf/" + dev
}

// confDefault returns what a setting is until someone writes it.
func confDefault(f rtnl.Family, dev, key string) (string, bool) {
	list, family := confIPv4, "ipv4/"
	if f == rtnl.IPv6 {
		list, family = confIPv6, "ipv6/"
	}
	if dev == "all" || dev == "lo" {
		if value, ok := valueIn(confSpecial, family+dev+"/"+key); ok {
			return value, true
		}
	}
	return valueIn(list, key)
}

// conf returns a setting below net/ipvX/conf as a number.
func (n *FakeNetns) conf(f rtnl.Family, dev, key string) int {
	value, ok := n.sysctls[confPath(f, dev)][key]
	if !ok {
		value, _ = confDefault(f, dev, key)
	}
	i, _ := strconv.Atoi(value)
	return i
}

// raised reports whether an IPv4 setting whose default is 0 is on for the device or for all.
func (d *device) raised(key string) bool {
	if len(d.ns.sysctls) == 0 {
		return false
	}
	on := func(dir string) bool {
		value := d.ns.sysctls[dir][key]
		return value != "" && value != "0"
	}
	return on("net/ipv4/conf/all") || on(confPath(rtnl.IPv4, d.Name))
}

func (d *device) disabledIPv6() bool { return d.ns.conf(rtnl.IPv6, d.Name, "disable_ipv6") != 0 }

// sysctl reads a setting.
func (n *FakeNetns) sysctl(name string) (string, *refusal) {
	if !strings.HasPrefix(name, "net/") || path.Clean(name) != name {
		return "", refuse(syscall.EINVAL, "")
	}
	if name == "net/ipv4/ip_forward" {
		name = "net/ipv4/conf/all/forwarding"
	}
	value, ok := n.sysctls[path.Dir(name)][path.Base(name)]
	f, dev, key, isConf := confName(name)
	switch {
	case isConf && !n.hasConf(f, dev):
		ok = false
	case isConf && f == rtnl.IPv6 && key == "mtu":
		value, ok = n.confMTU(dev)
	case ok:
	case isConf:
		value, ok = confDefault(f, dev, key)
	default:
		value, ok = valueIn(plainSysctls, name)
	}
	if !ok {
		return "", absent(syscall.ENOENT)
	}
	return value, nil
}

// hasConf reports whether net/ipvX/conf/dev exists.
func (n *FakeNetns) hasConf(f rtnl.Family, dev string) bool {
	if dev == "all" || dev == "default" {
		return true
	}
	d := n.devices[dev]
	return d != nil && (f == rtnl.IPv4 || d.MTU >= minIPv6MTU)
}

func (n *FakeNetns) confMTU(dev string) (string, bool) {
	if d := n.devices[dev]; d != nil {
		return strconv.Itoa(d.MTU), true
	}
	return strconv.Itoa(minIPv6MTU), true
}

// setSysctl writes a setting. They are all numbers; the kernel takes the first word and ignores an empty string.
func (n *FakeNetns) setSysctl(s rtnl.Sysctl) *refusal {
	if _, r := n.sysctl(s.Name); r != nil {
		return r
	}
	words := strings.Fields(s.Value)
	if len(words) == 0 {
		return nil
	}
	number, err := strconv.ParseInt(words[0], 0, 32)
	if err != nil {
		return refuse(syscall.EINVAL, "")
	}
	value := strconv.FormatInt(number, 10)
	name := s.Name
	if name == "net/ipv4/ip_forward" {
		name = "net/ipv4/conf/all/forwarding"
	}
	f, dev, key, isConf := confName(name)
	if !isConf {
		n.sysctls.set(path.Dir(name), path.Base(name), value)
		return nil
	}
	return n.setConf(f, dev, key, int(number), value)
}

// setConf writes a setting below conf. Three of them act on every device when written for "all".
func (n *FakeNetns) setConf(f rtnl.Family, dev, key string, number int, value string) *refusal {
	switch {
	case f == rtnl.IPv6 && key == "mtu":
		return unmodelled("net/ipv6/conf/*/mtu")
	case key == "addr_gen_mode" && (number < 0 || number > 3):
		return refuse(syscall.EINVAL, "")
	case key == "addr_gen_mode" && number > 1:
		return unmodelled("stable and random link-local addresses")
	}
	targets := []string{dev}
	if dev == "all" && spreads(f, key) {
		targets = append(targets, "default")
		for _, d := range n.sortedDevices() {
			targets = append(targets, d.Name)
		}
	}
	for _, target := range targets {
		was := n.conf(f, target, key)
		n.sysctls.set(confPath(f, target), key, value)
		if d := n.devices[target]; d != nil && f == rtnl.IPv6 {
			d.confChanged(key, was, number)
		}
	}
	if dev == "all" && f == rtnl.IPv4 && key == "forwarding" {
		n.sysctls.set(confPath(f, "all"), "accept_redirects", strconv.Itoa(map[bool]int{true: 0, false: 1}[number != 0]))
	}
	return nil
}

// spreads reports whether writing a setting for "all" writes it for every device.
func spreads(f rtnl.Family, key string) bool {
	return key == "forwarding" || f == rtnl.IPv6 && (key == "disable_ipv6" || key == "addr_gen_mode")
}

// confChanged does what follows from a setting of a device.
func (d *device) confChanged(key string, was, is int) {
	switch {
	case key == "disable_ipv6" && was == 0 && is != 0:
		d.ifdownIPv6(false)
	case key == "disable_ipv6" && was != 0 && is == 0 && d.up() && d.Name == "lo":
		d.loopbackAddrs()
	case (key == "disable_ipv6" || key == "addr_gen_mode") && was != is && is == 0 && d.running():
		d.addLinkLocal()
	}
}

// bornSysctls gives a new device the values of conf/default.
func (n *FakeNetns) bornSysctls(dev string) {
	for _, f := range []rtnl.Family{rtnl.IPv4, rtnl.IPv6} {
		if defaults := n.sysctls[confPath(f, "default")]; len(defaults) > 0 {
			n.sysctls[confPath(f, dev)] = maps.Clone(defaults)
		}
	}
}

func (n *FakeNetns) diedSysctls(dev string) {
	delete(n.sysctls, confPath(rtnl.IPv4, dev))
	delete(n.sysctls, confPath(rtnl.IPv6, dev))
}

// changedSysctls returns the settings that someone wrote and that differ from what the kernel would have without: from the default, or
// from what was written for every device. By name.
func (n *FakeNetns) changedSysctls() []rtnl.Sysctl {
	var out []rtnl.Sysctl
	for _, dir := range slices.Sorted(maps.Keys(n.sysctls)) {
		for _, key := range slices.Sorted(maps.Keys(n.sysctls[dir])) {
			name, value := dir+"/"+key, n.sysctls[dir][key]
			if f, dev, key, ok := confName(name); ok {
				if value == n.inherited(f, dev, key) {
					continue
				}
				if f == rtnl.IPv4 && dev == "all" && key == "forwarding" {
					name = "net/ipv4/ip_forward"
				}
			} else if standard, _ := valueIn(plainSysctls, name); value == standard {
				continue
			}
			out = append(out, rtnl.Sysctl{Name: name, Value: value})
		}
	}
	return out
}

// inherited returns what a setting below conf would be had it not been written by itself.
func (n *FakeNetns) inherited(f rtnl.Family, dev, key string) string {
	standard, _ := confDefault(f, dev, key)
	from := func(dir, key string) {
		if value, ok := n.sysctls[confPath(f, dir)][key]; ok {
			standard = value
		}
	}
	switch {
	case dev == "all" && f == rtnl.IPv4 && key == "accept_redirects" && n.conf(f, "all", "forwarding") != 0:
		standard = "0"
	case dev == "all":
	case spreads(f, key):
		from("all", key)
	case dev != "default":
		from("default", key)
	}
	return standard
}
