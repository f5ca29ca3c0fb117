package rtnl

import (
	"context"
	"errors"
	"net/netip"
)

// Conn is a connection to the kernel of one network namespace. Its sockets were opened in that namespace and stay there.
type Conn struct {
}

var errTODO = errors.New("rtnl: being written")

// Open opens a connection. Close it when done.
func Open(o Options) (*Conn, error) { return nil, errTODO }

// Close closes the sockets.
func (c *Conn) Close() error { return errTODO }

// Links returns every device of the namespace.
func (c *Conn) Links(ctx context.Context) ([]Link, error) { return nil, errTODO }

// Link returns one device; its absence is an error that matches fs.ErrNotExist.
func (c *Conn) Link(ctx context.Context, name string) (Link, error) { return Link{}, errTODO }

// Addrs returns the addresses of a device, or of all devices if link is "". A missing device is fs.ErrNotExist.
func (c *Conn) Addrs(ctx context.Context, link string) ([]Addr, error) { return nil, errTODO }

// Routes returns the routes that the filter selects, canonical (see Route.Canonical).
func (c *Conn) Routes(ctx context.Context, f RouteFilter) ([]Route, error) { return nil, errTODO }

// RouteTo returns the route that a packet to dst would take (ip route get); Dst is then the single address.
func (c *Conn) RouteTo(ctx context.Context, dst netip.Addr) (Route, error) { return Route{}, errTODO }

// Neighs returns the neighbour entries of a device, without those in state NUD_NOARP or NUD_NONE (multicast).
func (c *Conn) Neighs(ctx context.Context, link string) ([]Neigh, error) { return nil, errTODO }

// FDB returns the unicast forwarding entries with a destination of a VXLAN device.
func (c *Conn) FDB(ctx context.Context, link string) ([]FDB, error) { return nil, errTODO }

// Nexthops returns the nexthop objects with protocol p, or all if p is 0.
func (c *Conn) Nexthops(ctx context.Context, p Protocol) ([]Nexthop, error) { return nil, errTODO }

// Sysctl reads a setting, without the final newline. See Sysctl for the form of its name.
func (c *Conn) Sysctl(ctx context.Context, name string) (string, error) { return "", errTODO }

// Write executes a plan in order, in few system calls, and does not stop at a failure. It returns nil if all succeeded, else one
// element per change, nil for those that did.
func (c *Conn) Write(ctx context.Context, p Plan) []error { return nil }

// Watch calls notify for every notification of the selected groups until ctx ends (then it returns ctx.Err()). If
// notifications are lost it subscribes again and calls notify with Overflow. notify must not block.
func (c *Conn) Watch(ctx context.Context, g Groups, notify func(Event)) error { return errTODO }
