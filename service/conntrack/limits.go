package conntrack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Limits are settings of connection tracking, as kube-proxy's conntrack section has them. The zero value of each field leaves the kernel's value.
type Limits struct {
	// MaxPerCore is how many connections may be tracked per CPU, at least Min and at most 1,048,576 together. 0 leaves the maximum, and ignores Min. Kube-proxy's defaults are
	// 32,768 and 131,072.
	MaxPerCore, Min int

	// Idle times after which a connection is forgotten, in whole seconds: of TCP while established (kube-proxy's default: 24 h) and in CLOSE_WAIT (1 h), of UDP without and with an answer.
	TCPEstablished, TCPCloseWait, UDP, UDPStream time.Duration

	// TCPBeLiberal does not call TCP packets outside the window invalid, which would end live connections with a RST (kubernetes#74839, #117924).
	TCPBeLiberal bool
}

// Setting is the value of a file below /proc/sys or /sys.
type Setting struct {
	Path  string // such as "/proc/sys/net/netfilter/nf_conntrack_max"
	Value int
}

// String returns the setting as a shell would make it.
func (s Setting) String() string { return fmt.Sprintf("echo %d > %s", s.Value, s.Path) }

const (
	sysctlDir = "/proc/sys/net/netfilter/"
	// hashSize is global: nf_conntrack_buckets in a network namespace of its own is read-only.
	hashSize = "/sys/module/nf_conntrack/parameters/hashsize"
	maxLimit = 1 << 20 // of kube-proxy 1.36: on machines with many cores more only costs memory
)

// Validate returns every fault of l, each with field, value and what is allowed.
func (l Limits) Validate() error {
	var errs []error
	for _, n := range []struct {
		name  string
		value int
	}{{"MaxPerCore", l.MaxPerCore}, {"Min", l.Min}} {
		if n.value < 0 || n.value > 1<<31-1 {
			errs = append(errs, fmt.Errorf("%s %d: want 0 to 2147483647", n.name, n.value))
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"TCPEstablished", l.TCPEstablished}, {"TCPCloseWait", l.TCPCloseWait}, {"UDP", l.UDP}, {"UDPStream", l.UDPStream}} {
		if d.value < 0 || d.value > 0 && d.value < time.Second || d.value/time.Second > 1<<31-1 {
			errs = append(errs, fmt.Errorf("%s %s: want 0, or at least a second", d.name, d.value))
		}
	}
	return errors.Join(errs...)
}

// Settings returns what l means on a machine with so many CPUs. It is pure. The last one, if there is a maximum, is the size of the kernel's hash table: no list in
// it is to be longer than four on the average; see [Limits.Plan].
func (l Limits) Settings(cpus int) []Setting {
	var list []Setting
	add := func(name string, value int) { list = append(list, Setting{sysctlDir + name, value}) }
	seconds := func(name string, d time.Duration) {
		if d > 0 {
			add(name, int(d/time.Second))
		}
	}
	seconds("nf_conntrack_tcp_timeout_established", l.TCPEstablished)
	seconds("nf_conntrack_tcp_timeout_close_wait", l.TCPCloseWait)
	if l.TCPBeLiberal {
		add("nf_conntrack_tcp_be_liberal", 1)
	}
	seconds("nf_conntrack_udp_timeout", l.UDP)
	seconds("nf_conntrack_udp_timeout_stream", l.UDPStream)
	if l.MaxPerCore > 0 {
		most := l.MaxPerCore * max(cpus, 1)
		if most > maxLimit {
			most = maxLimit
		} else {
			most = max(most, l.Min)
		}
		add("nf_conntrack_max", most)
		list = append(list, Setting{hashSize, most / 4})
	}
	return list
}

// Files reads and writes settings.
type Files interface {
	Read(path string) (int, error)
	Write(s Setting) error
	CPUs() (int, error)
}

// Plan returns which settings differ from l. The hash table is only ever made larger. It only reads.
func (l Limits) Plan(f Files) ([]Setting, error) {
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("conntrack limits: %w", err)
	}
	cpus := 1
	if l.MaxPerCore > 0 {
		var err error
		if cpus, err = f.CPUs(); err != nil {
			return nil, fmt.Errorf("conntrack limits: count CPUs: %w", err)
		}
	}
	var todo []Setting
	var errs []error
	for _, s := range l.Settings(cpus) {
		have, err := f.Read(s.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("conntrack limits: %w: load the module nf_conntrack (CONFIG_NF_CONNTRACK)", err))
		case err != nil:
			errs = append(errs, fmt.Errorf("conntrack limits: %w", err))
		case s.Path == hashSize && have >= s.Value || have == s.Value:
		default:
			todo = append(todo, s)
		}
	}
	return todo, errors.Join(errs...)
}

// Apply makes the settings as l wants them, and returns those it changed. One that fails does not stop the others.
func (l Limits) Apply(f Files) ([]Setting, error) {
	todo, err := l.Plan(f)
	var done []Setting
	errs := []error{err}
	for _, s := range todo {
		if err := f.Write(s); err != nil {
			errs = append(errs, fmt.Errorf("conntrack limits: %s: %w", s, err))
			continue
		}
		done = append(done, s)
	}
	return done, errors.Join(errs...)
}

// Machine is the real Files. The zero value is the host as the process sees it; of the files in /proc/sys/net those of the calling thread's network namespace.
type Machine struct {
	Root string // is put before every path; "" is none
}

// Read returns the number in a file.
func (m Machine) Read(path string) (int, error) {
	b, err := os.ReadFile(m.Root + path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// Write writes the number into an existing file.
func (m Machine) Write(s Setting) error {
	f, err := os.OpenFile(m.Root+s.Path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(s.Value))
	return errors.Join(err, f.Close())
}

// CPUs returns how many CPUs are online, which may be more than the process may use (kubernetes#99225).
func (m Machine) CPUs() (int, error) {
	const online = "/sys/devices/system/cpu/online"
	b, err := os.ReadFile(filepath.Join(m.Root, online))
	if err != nil {
		return 0, err
	}
	n := 0
	for part := range strings.SplitSeq(strings.TrimSpace(string(b)), ",") { // such as "0-3,8"
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, err1 := strconv.Atoi(first)
		z, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || z < a {
			return 0, fmt.Errorf("%s holds %q: want ranges such as 0-3,8", online, b)
		}
		n += z - a + 1
	}
	return n, nil
}
