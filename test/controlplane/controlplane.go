package controlplane

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ControlPlane is a running control plane.
type ControlPlane struct {
	config    Config
	dir       *directory
	keys      keys
	spawner   *spawner
	transport *transport
	processes map[Component]*process
	users     map[string]User
	port      int
}

// order is that of starting; ending goes backwards.
var order = [...]Component{Etcd, APIServer, ControllerManager}

// Start starts a control plane and returns when it is ready.
func Start(ctx context.Context, config Config) (*ControlPlane, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.Binaries == "" {
		found, err := Find()
		if err != nil {
			return nil, err
		}
		config.Binaries = found
	}
	c := &ControlPlane{config: config.withDefaults(), processes: map[Component]*process{}, users: map[string]User{}}
	if err := c.prepare(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	for _, component := range c.components() {
		if err := c.Start(ctx, component); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// prepare does all that needs no running process.
func (c *ControlPlane) prepare() (err error) {
	if err := sweep(); err != nil {
		return fmt.Errorf("remove what killed control planes left: %w", err)
	}
	if c.dir, err = makeDirectory(c.config.Dir); err != nil {
		return err
	}
	c.keys = keys{ca: c.path("ca.crt"), cert: c.path("apiserver.crt"), key: c.path("apiserver.key"), serviceAccount: c.path("service-account.key")}
	if err := c.keys.make(c.config.Addresses); err != nil {
		return err
	}
	for _, u := range append([]User{{Name: Admin, Groups: []string{"system:masters"}}}, c.config.Users...) {
		if u.Token == "" {
			u.Token = rand.Text()
		}
		c.users[u.Name] = u
	}
	if err := c.writeTokens(); err != nil {
		return err
	}
	if c.spawner, err = newSpawner(c.config.Netns); err != nil {
		return err
	}
	if c.transport, err = newTransport(c.config.Netns, c.keys.ca); err != nil {
		return err
	}
	ports, err := c.freePorts(4)
	if err != nil {
		return err
	}
	if c.port = c.config.Port; c.port == 0 {
		c.port = ports[0]
	}
	c.add(Etcd, c.etcdFlags(ports[1], ports[2]), "http://"+loopback(ports[1])+"/readyz")
	c.add(APIServer, c.apiServerFlags(ports[1]), c.URL()+"/readyz")
	if len(c.config.ClusterCIDRs) > 0 {
		if err := c.WriteKubeconfig(c.path("controller-manager.kubeconfig"), Kubeconfig{Token: c.users[Admin].Token}); err != nil {
			return err
		}
		c.add(ControllerManager, c.controllerManagerFlags(ports[3]), "https://"+loopback(ports[3])+"/healthz")
	}
	return nil
}

func (c *ControlPlane) add(name Component, flags []string, ready string) {
	p := &process{name: name, log: c.path(string(name) + ".log")}
	p.argv = append([]string{filepath.Join(c.config.Binaries, string(name))}, append(flags, c.config.Flags[name]...)...)
	p.ready = c.transport.probe(ready)
	c.processes[name] = p
}

func (c *ControlPlane) etcdFlags(client, peer int) []string {
	clientURL, peerURL := "http://"+loopback(client), "http://"+loopback(peer)
	return []string{
		"--name=default", "--data-dir=" + c.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + clientURL, "--advertise-client-urls=" + clientURL,
		"--listen-peer-urls=" + peerURL, "--initial-advertise-peer-urls=" + peerURL, "--initial-cluster=default=" + peerURL,
	}
}

func (c *ControlPlane) apiServerFlags(etcd int) []string {
	first := c.config.Addresses[0]
	bind := first.String()
	if len(c.config.Addresses) > 1 {
		bind = "::"
	}
	flags := []string{
		"--etcd-servers=http://" + loopback(etcd), "--bind-address=" + bind, "--secure-port=" + strconv.Itoa(c.port), "--advertise-address=" + first.String(),
		"--tls-cert-file=" + c.keys.cert, "--tls-private-key-file=" + c.keys.key,
		"--token-auth-file=" + c.path("tokens.csv"), "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-signing-key-file=" + c.keys.serviceAccount, "--service-account-key-file=" + c.keys.serviceAccount,
		"--service-cluster-ip-range=" + join(c.config.ServiceCIDRs), "--allow-privileged=true", "--profiling=false",
	}
	if first.IsLoopback() {
		flags = append(flags, "--endpoint-reconciler-type=none") // an EndpointSlice may not hold loopback addresses
	}
	return flags
}

func (c *ControlPlane) controllerManagerFlags(port int) []string {
	flags := []string{
		"--kubeconfig=" + c.path("controller-manager.kubeconfig"), "--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(port),
		"--leader-elect=false", "--controllers=" + strings.Join(c.config.Controllers, ","), "--root-ca-file=" + c.keys.ca,
		"--service-cluster-ip-range=" + join(c.config.ServiceCIDRs), "--allocate-node-cidrs=true", "--cluster-cidr=" + join(c.config.ClusterCIDRs),
		"--kube-api-qps=2000", "--kube-api-burst=2000", // 5,000 nodes get their podCIDRs in seconds, not in minutes
	}
	for i, p := range c.config.ClusterCIDRs {
		name := "--node-cidr-mask-size"
		switch { // the names with a family are refused for one family
		case len(c.config.ClusterCIDRs) == 2 && p.Addr().Is4():
			name += "-ipv4"
		case len(c.config.ClusterCIDRs) == 2:
			name += "-ipv6"
		}
		flags = append(flags, name+"="+strconv.Itoa(c.config.MaskSizes[i]))
	}
	return flags
}

// writeTokens writes the file of static tokens, which the API server reads when it starts.
func (c *ControlPlane) writeTokens() error {
	var b strings.Builder
	for _, u := range c.users {
		fmt.Fprintf(&b, "%s,%s,%s", u.Token, u.Name, u.Name)
		if len(u.Groups) > 0 {
			fmt.Fprintf(&b, ",%q", strings.Join(u.Groups, ","))
		}
		b.WriteByte('\n')
	}
	return os.WriteFile(c.path("tokens.csv"), []byte(b.String()), 0o600)
}

// SetToken gives a user another static token and returns it. Kubernetes reads such tokens only at start, so the old one is good until the API server restarts.
func (c *ControlPlane) SetToken(user string) (string, error) {
	u, ok := c.users[user]
	if !ok {
		return "", fmt.Errorf("no user %q", user)
	}
	u.Token = rand.Text()
	c.users[user] = u
	return u.Token, c.writeTokens()
}

// components returns those of this control plane, in the order of starting.
func (c *ControlPlane) components() []Component {
	var list []Component
	for _, component := range order {
		if c.processes[component] != nil {
			list = append(list, component)
		}
	}
	return list
}

func (c *ControlPlane) process(component Component) (*process, error) {
	p := c.processes[component]
	if p == nil {
		return nil, fmt.Errorf("this control plane has no %s", component)
	}
	return p, nil
}

// Start starts a component that was ended, on its old port with its old data, and returns when it is ready.
func (c *ControlPlane) Start(ctx context.Context, component Component) error {
	p, err := c.process(component)
	if err != nil {
		return err
	}
	return p.start(ctx, c.spawner)
}

// Stop ends a component as an operator would: SIGTERM, and SIGKILL after 5 s. One that does not run is no error.
func (c *ControlPlane) Stop(component Component) error {
	p, err := c.process(component)
	if err == nil {
		p.end(syscall.SIGTERM, 5*time.Second)
	}
	return err
}

// Kill ends a component with SIGKILL. One that does not run is no error.
func (c *ControlPlane) Kill(component Component) error {
	p, err := c.process(component)
	if err == nil {
		p.end(syscall.SIGKILL, time.Minute)
	}
	return err
}

// Pause stops a component with SIGSTOP. Its connections stay open and the kernel accepts new ones, but nobody answers.
func (c *ControlPlane) Pause(component Component) error {
	p, err := c.process(component)
	if err != nil {
		return err
	}
	return p.pause()
}

// Resume lets a paused component go on.
func (c *ControlPlane) Resume(component Component) error {
	p, err := c.process(component)
	if err != nil {
		return err
	}
	return p.resume()
}

// PID returns the process id of a component, or 0 if it does not run.
func (c *ControlPlane) PID(component Component) int {
	if p := c.processes[component]; p != nil && p.cmd != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Usage tells what a component has used since it was started.
func (c *ControlPlane) Usage(component Component) (Usage, error) {
	p, err := c.process(component)
	if err != nil {
		return Usage{}, err
	}
	return p.usage()
}

// Log returns the end of a component's log, for an error message.
func (c *ControlPlane) Log(component Component) string {
	p, err := c.process(component)
	if err != nil {
		return err.Error()
	}
	return tail(p.log)
}

// Close ends every component and removes the directory, unless Config.Dir named it.
func (c *ControlPlane) Close() error {
	list := c.components()
	for i := range list {
		c.processes[list[len(list)-1-i]].end(syscall.SIGKILL, time.Minute)
	}
	if c.transport != nil {
		c.transport.close()
	}
	if c.spawner != nil {
		c.spawner.close()
		c.spawner = nil
	}
	if c.dir == nil {
		return nil
	}
	return c.dir.close()
}

// URL returns where the API server is reached, at the first address.
func (c *ControlPlane) URL() string { return c.urlAt(c.config.Addresses[0]) }

func (c *ControlPlane) urlAt(a netip.Addr) string {
	return "https://" + netip.AddrPortFrom(a, uint16(c.port)).String()
}

// CAFile returns the path of the certificate that signed the API server's.
func (c *ControlPlane) CAFile() string { return c.keys.ca }

// Dir returns the directory of data, keys and logs.
func (c *ControlPlane) Dir() string { return c.dir.path }

func (c *ControlPlane) path(name string) string { return filepath.Join(c.dir.path, name) }

func join(ps []netip.Prefix) string {
	texts := make([]string, len(ps))
	for i, p := range ps {
		texts[i] = p.String()
	}
	return strings.Join(texts, ",")
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
