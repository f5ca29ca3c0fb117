package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/podnet/podnet/internal/netns"
)

// transport speaks HTTP from inside the control plane's network namespace.
type transport struct {
	netns string
	api   *http.Transport // trusts the cluster's authority
	local *http.Transport // trusts everybody: kube-controller-manager makes itself a certificate at every start
}

func newTransport(netns, caFile string) (*transport, error) {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s: no certificate in it", caFile)
	}
	t := &transport{netns: netns}
	t.api = &http.Transport{DialContext: t.dial, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 32}
	t.local = &http.Transport{DialContext: t.dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	return t, nil
}

func (t *transport) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	var d net.Dialer
	if t.netns == "" {
		return d.DialContext(ctx, network, address)
	}
	err = netns.Do(t.netns, func() error {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// probe returns a function that asks url once.
func (t *transport) probe(url string) func(context.Context) (*http.Response, error) {
	client := &http.Client{Transport: t.local, Timeout: 5 * time.Second}
	return func(ctx context.Context) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		return client.Do(req)
	}
}

func (t *transport) close() {
	t.api.CloseIdleConnections()
	t.local.CloseIdleConnections()
}

// freePorts returns n different ports that nobody listens on in the control plane's namespace. They lie below the range that the kernel takes
// the ports of outgoing connections from (32768 and up), so that they are still free when a component is started again.
func (c *ControlPlane) freePorts(n int) ([]int, error) {
	const first, last = 20000, 32767
	var ports []int
	err := c.spawner.do(func() error {
		taken := map[int]bool{c.config.Port: true}
		for len(ports) < n {
			if len(taken) > last-first {
				return fmt.Errorf("no free TCP port between %d and %d", first, last)
			}
			port := first + rand.IntN(last-first+1)
			if taken[port] {
				continue
			}
			taken[port] = true
			l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
			if err != nil {
				continue
			}
			l.Close()
			ports = append(ports, port)
		}
		return nil
	})
	return ports, err
}
