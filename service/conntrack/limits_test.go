package conntrack_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/service/conntrack"
)

func setting(path string, value int) conntrack.Setting {
	if !strings.HasPrefix(path, "/") {
		path = "/proc/sys/net/netfilter/nf_conntrack_" + path
	}
	return conntrack.Setting{Path: path, Value: value}
}

const hashSize = "/sys/module/nf_conntrack/parameters/hashsize"

func TestLimitsSettings(t *testing.T) {
	type list = []conntrack.Setting
	for _, tt := range []struct {
		name   string
		limits conntrack.Limits
		cpus   int
		want   list
	}{
		{"zero", conntrack.Limits{}, 8, nil},
		{"per core", conntrack.Limits{MaxPerCore: 32768, Min: 131072}, 8, list{setting("max", 262144), setting(hashSize, 65536)}},
		{"min", conntrack.Limits{MaxPerCore: 32768, Min: 131072}, 2, list{setting("max", 131072), setting(hashSize, 32768)}},
		{"cap", conntrack.Limits{MaxPerCore: 32768, Min: 131072}, 256, list{setting("max", 1048576), setting(hashSize, 262144)}},
		{"cap wins over min", conntrack.Limits{MaxPerCore: 32768, Min: 2000000}, 256, list{setting("max", 1048576), setting(hashSize, 262144)}},
		{"min above the cap", conntrack.Limits{MaxPerCore: 32768, Min: 2000000}, 2, list{setting("max", 2000000), setting(hashSize, 500000)}},
		{"min alone is ignored", conntrack.Limits{Min: 131072}, 8, nil},
		{"no CPU known", conntrack.Limits{MaxPerCore: 10}, 0, list{setting("max", 10), setting(hashSize, 2)}},
		{
			"times", conntrack.Limits{TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour, UDP: 30*time.Second + time.Millisecond, UDPStream: 3 * time.Minute, TCPBeLiberal: true}, 1,
			list{setting("tcp_timeout_established", 86400), setting("tcp_timeout_close_wait", 3600), setting("tcp_be_liberal", 1), setting("udp_timeout", 30), setting("udp_timeout_stream", 180)},
		},
	} {
		if diff := cmp.Diff(tt.want, tt.limits.Settings(tt.cpus)); diff != "" {
			t.Errorf("%s (-want +have):\n%s", tt.name, diff)
		}
	}
}

// machine makes a directory with such files.
func machine(t *testing.T, files map[string]string) conntrack.Machine {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+path, []byte(content+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return conntrack.Machine{Root: root}
}

func TestLimitsApply(t *testing.T) {
	files := map[string]string{
		"/sys/devices/system/cpu/online":                   "0-3,8,10-11",
		setting("max", 0).Path:                             "65536",
		setting("tcp_timeout_established", 0).Path:         "432000",
		setting("tcp_be_liberal", 0).Path:                  "1",
		"/proc/sys/net/netfilter/nf_conntrack_udp_timeout": "30",
		hashSize: "65536",
	}
	m := machine(t, files)
	l := conntrack.Limits{MaxPerCore: 50000, TCPEstablished: 24 * time.Hour, TCPBeLiberal: true, UDP: 30 * time.Second}
	done, err := l.Apply(m)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]conntrack.Setting{setting("tcp_timeout_established", 86400), setting("max", 350000), setting(hashSize, 87500)}, done); diff != "" {
		t.Errorf("Apply (-want +have):\n%s", diff)
	}
	for _, s := range done {
		if have, err := m.Read(s.Path); err != nil || have != s.Value {
			t.Errorf("%s: %d, %v", s.Path, have, err)
		}
	}
	if done, err := l.Apply(m); err != nil || len(done) > 0 {
		t.Errorf("second Apply: %v, %v", done, err)
	}
	// The hash table never shrinks; the maximum does, as with kube-proxy.
	l.MaxPerCore = 10
	done, err = l.Apply(m)
	if diff := cmp.Diff([]conntrack.Setting{setting("max", 70)}, done); err != nil || diff != "" {
		t.Errorf("smaller maximum: %v (-want +have):\n%s", err, diff)
	}
}

// TestLimitsFaults: a missing file and a refused one are named, and stop no other.
func TestLimitsFaults(t *testing.T) {
	files := map[string]string{setting("udp_timeout", 0).Path: "30", setting("udp_timeout_stream", 0).Path: "no number", setting("tcp_be_liberal", 0).Path: "0"}
	l := conntrack.Limits{TCPBeLiberal: true, UDP: time.Minute, UDPStream: time.Minute, TCPCloseWait: time.Hour}
	done, err := l.Apply(machine(t, files))
	if diff := cmp.Diff([]conntrack.Setting{setting("tcp_be_liberal", 1), setting("udp_timeout", 60)}, done); diff != "" {
		t.Errorf("Apply (-want +have):\n%s", diff)
	}
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, strconv.ErrSyntax) || !strings.Contains(err.Error(), "module nf_conntrack") {
		t.Errorf("Apply: %v", err)
	}
	broken := errors.New("read-only")
	done, err = l.Apply(readOnly{machine(t, maps.Collect(maps.All(files))), broken})
	if len(done) > 0 || !errors.Is(err, broken) || !strings.Contains(err.Error(), "echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal") {
		t.Errorf("Apply where nothing may be written: %v, %v", done, err)
	}
	for _, bad := range []conntrack.Limits{{MaxPerCore: -1}, {Min: -1}, {UDP: -1}, {UDPStream: time.Millisecond}} {
		if _, err := bad.Apply(machine(t, files)); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
	for _, online := range []string{"", "x", "3-1", "0-"} {
		m := machine(t, map[string]string{"/sys/devices/system/cpu/online": online})
		if n, err := m.CPUs(); err == nil {
			t.Errorf("%q: %d CPUs", online, n)
		}
	}
}

type readOnly struct {
	conntrack.Machine
	err error
}

func (r readOnly) Write(conntrack.Setting) error { return r.err }
