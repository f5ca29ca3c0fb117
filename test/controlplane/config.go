package controlplane

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Version is the release of Kubernetes that test/kube/build builds.
const Version = "v1.36.3"

// Component is one process of the control plane.
type Component string

// The components, by the names of their binaries.
const (
	Etcd              Component = "etcd"
	APIServer         Component = "kube-apiserver"
	ControllerManager Component = "kube-controller-manager"
)

// Admin is a user that always exists, in the group system:masters, which may do everything.
const Admin = "admin"

// Config says what control plane to start. The zero Config is an API server on 127.0.0.1 without controllers.
type Config struct {
	// Binaries is the directory of the binaries; "" is where test/kube/build puts them, see [Find].
	Binaries string
	// Dir is where data, keys and logs go. It is kept after Close. "" is a new directory that Close removes.
	Dir string
	// Netns is the path of the network namespace to run in; "" is the caller's. Its loopback must be up.
	Netns string
	// Addresses are those at which the API server is reached: they stand in its certificate, and the first in kubeconfigs. nil is 127.0.0.1.
	Addresses []netip.Addr
	// Port is the API server's; 0 is a free one.
	Port int
	// Users have static tokens, besides Admin.
	Users []User
	// ServiceCIDRs are the ranges of ClusterIPs, one or one per family; nil is 10.96.0.0/16 and fd00:10:96::/112.
	ServiceCIDRs []netip.Prefix
	// ClusterCIDRs are the ranges that kube-controller-manager gives podCIDRs from, one or one per family; nil starts no controller manager.
	ClusterCIDRs []netip.Prefix
	// MaskSizes are the lengths of podCIDRs, one per cluster CIDR; nil is Kubernetes' default, /24 and /64.
	MaskSizes []int
	// Controllers are those that run; nil is node-ipam-controller and serviceaccount-controller.
	Controllers []string
	// Flags are further command-line flags, after those that this package sets.
	Flags map[Component][]string
}

// User authenticates with a static token.
type User struct {
	Name   string
	Groups []string
	Token  string // "" is a random one
}

// Validate reports every fault of the Config.
func (c Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, a := range c.Addresses {
		if !a.IsValid() || a.IsUnspecified() || a.Zone() != "" {
			fault("Addresses: %s: want the addresses of an interface, without zone", a)
		}
	}
	if c.Port < 0 || c.Port > 65535 {
		fault("Port: %d: want 1 to 65535, or 0 for a free one", c.Port)
	}
	seen := map[string]bool{Admin: true}
	for _, u := range c.Users {
		if u.Name == "" || seen[u.Name] {
			fault("Users: name %q: want a name that occurs once and is not %q", u.Name, Admin)
		}
		seen[u.Name] = true
		// kube-apiserver reads the token file as CSV and splits the groups at commas.
		if strings.ContainsAny(u.Name+u.Token+strings.Join(u.Groups, ""), ",\"\n\r") {
			fault("Users: %s: want name, token and groups without comma, quote and newline", u.Name)
		}
	}
	cidrs := func(field string, ps []netip.Prefix) {
		if len(ps) > 2 || len(ps) == 2 && ps[0].Addr().Is4() == ps[1].Addr().Is4() {
			fault("%s: %v: want one range per address family", field, ps)
		}
		for _, p := range ps {
			if !p.IsValid() || p != p.Masked() {
				fault("%s: %s: want a network without host bits", field, p)
			}
		}
	}
	cidrs("ServiceCIDRs", c.ServiceCIDRs)
	cidrs("ClusterCIDRs", c.ClusterCIDRs)
	if len(c.MaskSizes) != 0 && len(c.MaskSizes) != len(c.ClusterCIDRs) {
		fault("MaskSizes: %v: want as many as ClusterCIDRs, %d", c.MaskSizes, len(c.ClusterCIDRs))
	}
	for component := range c.Flags {
		if component != Etcd && component != APIServer && component != ControllerManager {
			fault("Flags: %s: want %s, %s or %s", component, Etcd, APIServer, ControllerManager)
		}
	}
	return errors.Join(errs...)
}

// withDefaults fills in what the zero values stand for.
func (c Config) withDefaults() Config {
	if len(c.Addresses) == 0 {
		c.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	}
	if len(c.ServiceCIDRs) == 0 {
		c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
		if c.Addresses[0].Is6() {
			slices.Reverse(c.ServiceCIDRs) // the first family must be that of the address which the API server advertises
		}
	}
	if len(c.Controllers) == 0 {
		c.Controllers = []string{"node-ipam-controller", "serviceaccount-controller"}
	}
	if len(c.MaskSizes) == 0 {
		for _, p := range c.ClusterCIDRs {
			size := 24
			if p.Addr().Is6() {
				size = 64
			}
			c.MaskSizes = append(c.MaskSizes, size)
		}
	}
	return c
}

// ErrNotBuilt says that the binaries are missing.
var ErrNotBuilt = errors.New("the Kubernetes binaries are not built: run test/kube/build")

// Find returns the directory of the binaries: PODNET_KUBE_BIN from the environment, or where test/kube/build puts them. If they are not all there, the
// error is [ErrNotBuilt].
func Find() (string, error) {
	dir := os.Getenv("PODNET_KUBE_BIN")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrNotBuilt, err)
		}
		dir = filepath.Join(cache, "podnet", "kube-"+Version)
	}
	for _, name := range []string{string(Etcd), string(APIServer), string(ControllerManager), "kubectl"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("%w: %w", ErrNotBuilt, err)
		}
	}
	return dir, nil
}
