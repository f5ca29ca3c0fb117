package conntrack_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service/conntrack"
	"github.com/podnet/podnet/service/conntrack/conntracktest"
)

func TestKernelContract(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	conntracktest.Contract(t, conntracktest.Harness{
		Kernel: &conntrack.Conn{Netns: ns.Path()},
		Track:  func(t testing.TB, flows ...conntrack.Flow) { conntrack.Track(t, ns.Path(), flows...) },
	})
}

// TestKernelLimits: the sysctls of a namespace. The maximum belongs to the host, so it is only read.
func TestKernelLimits(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	l := conntrack.Limits{TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour, UDP: time.Minute, UDPStream: 5 * time.Minute, TCPBeLiberal: true}
	if err := ns.Do(func() error {
		done, err := l.Apply(conntrack.Machine{})
		if err != nil || len(done) != 5 {
			t.Errorf("Apply: %v, %v", done, err)
		}
		done, err = l.Apply(conntrack.Machine{})
		if err != nil || len(done) > 0 {
			t.Errorf("second Apply: %v, %v", done, err)
		}
		_, err = conntrack.Limits{MaxPerCore: 32768}.Plan(conntrack.Machine{})
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestKernelErrors: what a user without a namespace or the privilege reads.
func TestKernelErrors(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	config := conntrack.Config{Frontends: []conntrack.Frontend{front("10.96.0.10:53")}}
	_, err := conntrack.New(&conntrack.Conn{Netns: "/nonexistent"}, conntrack.Options{}).Apply(t.Context(), config)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing namespace: %v", err)
	}
	conntrack.Track(t, ns.Path(), udp("10.244.1.1:1000", "10.96.0.10:53", "10.244.1.3:53"))
	err = ns.Do(func() error { // the thread ends with it
		var caps [2]unix.CapUserData
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capset(&header, &caps[0]); err != nil {
			return err
		}
		_, err := conntrack.New(&conntrack.Conn{}, conntrack.Options{}).Apply(t.Context(), config)
		return err
	})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN is needed") {
		t.Errorf("without capabilities: %v", err)
	}
}
