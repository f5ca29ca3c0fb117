package rtnl

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// chunkBytes is how much goes to the kernel in one sendmsg. BenchmarkChunk on Linux 6.18, ns per neighbour: one message at a time
	// 2990; 1 KiB 510; 4 KiB 440; 16 KiB 410; 32 KiB 400; 64 KiB 410; 128 KiB 425. So it hardly matters from 4 KiB on.
	chunkBytes = 32 << 10
	// answerSize is the most that the answer to one failed message takes of the receive buffer: the kernel counts 256 bytes for the
	// sk_buff and 512 or 1024 for the data.
	answerSize = 1280
)

// Write executes a plan in order, in few system calls, and does not stop at a failure. It returns nil if all succeeded, else one
// element per change, nil for those that did. When ctx ends, the changes not yet sent fail with its error.
func (c *Conn) Write(ctx context.Context, p Plan) []error {
	if len(p) == 0 {
		return nil
	}
	c.write.mu.Lock()
	defer c.write.mu.Unlock()
	w := writer{conn: c, socket: c.write, plan: p, names: make(map[string]int32), relinked: make(map[string]bool)}
	for i, change := range p {
		if err := ctx.Err(); err != nil {
			w.fail(i, err)
			continue
		}
		w.do(i, change)
	}
	w.setSysctls()
	w.flush()
	return w.errs
}

// writer executes one plan. Messages gather in out and go to the kernel together.
type writer struct {
	conn   *Conn
	socket *socket
	plan   Plan
	errs   []error // nil until something failed

	out     encoder
	waiting []request
	netns   []int // namespaces that waiting messages refer to, closed after flush
	finish  []int // link additions among the waiting that need a second step

	settings []int // Sysctl changes to be done after the waiting messages

	names    map[string]int32
	relinked map[string]bool // devices that waiting messages make or delete
}

// request is a message in out.
type request struct {
	seq    uint32
	change int // index in the plan
}

// do encodes a change, or executes it at once if netlink has no message for it.
func (w *writer) do(i int, c Change) {
	if errno := checkChange(c); errno != 0 {
		w.fail(i, errno)
		return
	}
	if _, ok := c.Object.(Sysctl); ok {
		w.settings = append(w.settings, i)
		return
	}
	w.setSysctls()
	switch o := c.Object.(type) {
	case Link:
		w.link(i, c.Verb, o)
	case Addr:
		w.object(i, c.Verb, unix.RTM_NEWADDR, unix.RTM_DELADDR, o.Link, func(e *encoder, index int32) { encodeAddr(e, o, index) })
	case Route:
		r := o.Canonical()
		r.Dst = o.Dst // host bits are for the kernel to refuse (IPv4) or to mask (IPv6)
		if c.Verb == Delete {
			r.Protocol = o.Protocol // none: a route of any protocol
		}
		w.object(i, c.Verb, unix.RTM_NEWROUTE, unix.RTM_DELROUTE, o.Link, func(e *encoder, index int32) { encodeRoute(e, r, index, c.Verb) })
	case Neigh:
		w.object(i, c.Verb, unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH, o.Link, func(e *encoder, index int32) { encodeNeigh(e, o, index, c.Verb) })
	case FDB:
		w.object(i, c.Verb, unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH, o.Link, func(e *encoder, index int32) { encodeFDB(e, o, index) })
	case Nexthop:
		link := o.Link
		if c.Verb == Delete { // the ID says it all
			link = ""
		}
		w.object(i, c.Verb, unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP, link, func(e *encoder, index int32) { encodeNexthop(e, o, index, c.Verb) })
	}
}

// object adds the message for an object that hangs on a device, or on none if link is "".
func (w *writer) object(i int, v Verb, newType, delType uint16, link string, encode func(*encoder, int32)) {
	var index int32
	if link != "" {
		var ok bool
		if index, ok = w.index(i, link); !ok {
			return
		}
	}
	typ, flags := newType, uint16(0)
	switch v {
	case Add:
		flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	case Replace:
		flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	case Delete:
		typ = delType
	}
	w.message(i, typ, flags, func(e *encoder) { encode(e, index) })
}

// message adds a message and sends the chunk if it is full.
func (w *writer) message(i int, typ, flags uint16, encode func(*encoder)) {
	seq := w.socket.nextSeq()
	w.out.begin(typ, unix.NLM_F_REQUEST|flags, seq)
	encode(&w.out)
	w.out.end()
	w.waiting = append(w.waiting, request{seq, i})
	if len(w.out.buf) >= w.conn.chunk || len(w.waiting) >= w.socket.answers {
		w.flush()
	}
}

// index returns the index of a device as it will be when the waiting messages are done. On failure it fails the change.
func (w *writer) index(i int, name string) (int32, bool) {
	if w.relinked[name] {
		w.flush()
	}
	if index, ok := w.names[name]; ok {
		return index, true
	}
	index, err := w.socket.index(name)
	if err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			w.refuse(i, reply{errno: e.Errno, detail: "device " + name})
		} else {
			w.fail(i, err)
		}
		return 0, false
	}
	w.names[name] = index
	return index, true
}

// flush sends the waiting messages and takes in the answers: one for each that failed, and one for the last (NLM_F_ACK).
func (w *writer) flush() {
	w.exchange()
	for _, fd := range w.netns {
		unix.Close(fd)
	}
	w.netns = w.netns[:0]
	for name := range w.relinked {
		delete(w.names, name)
	}
	clear(w.relinked)
	if len(w.finish) == 0 {
		return
	}
	links := w.finish
	w.finish = nil
	w.finishLinks(links)
}

func (w *writer) exchange() {
	if len(w.waiting) == 0 {
		return
	}
	w.out.addFlags(unix.NLM_F_ACK)
	err := w.socket.send(w.out.buf)
	w.out.buf = w.out.buf[:0]
	waiting := w.waiting
	for err == nil && len(waiting) > 0 {
		var in []byte
		if in, err = w.socket.receive(); err != nil {
			break
		}
		for m := range messages(in) {
			if m.typ == unix.NLMSG_ERROR {
				waiting = w.answer(waiting, m)
			}
		}
	}
	for _, r := range waiting { // no answer: nobody knows what became of them
		w.fail(r.change, err)
	}
	w.waiting = w.waiting[:0]
}

// answer takes in an answer. The kernel answers in order: those before it that have none succeeded.
func (w *writer) answer(waiting []request, m message) []request {
	for k, r := range waiting {
		if r.seq != m.seq {
			continue
		}
		if reply := decodeReply(m); reply.errno != 0 {
			w.refuse(r.change, reply)
		}
		return waiting[k+1:]
	}
	return waiting // of an earlier chunk whose answers got lost
}

// fail records why a change failed; the first reason stands.
func (w *writer) fail(i int, err error) {
	if errno, ok := err.(syscall.Errno); ok {
		w.refuse(i, reply{errno: errno})
		return
	}
	if w.errs == nil {
		w.errs = make([]error, len(w.plan))
	}
	if w.errs[i] == nil {
		w.errs[i] = err
	}
}

func (w *writer) failed(i int) bool { return w.errs != nil && w.errs[i] != nil }

// refuse records the kernel's refusal of a change.
func (w *writer) refuse(i int, r reply) {
	c := w.plan[i]
	e := &Error{Op: "change", Errno: r.errno, Detail: r.detail}
	if c.Object != nil {
		kind, rest, _ := strings.Cut(c.Object.String(), " ")
		e.Op, e.Object = kind+" "+c.Verb.String(), rest
		e.Missing = missing(c, r.errno)
	}
	w.fail(i, e)
}

// missing reports whether errno means that the object, or the device it hangs on, does not exist.
func missing(c Change, errno syscall.Errno) bool {
	if errno == unix.ENODEV {
		return true
	}
	if c.Verb != Delete {
		return false
	}
	switch c.Object.(type) {
	case Addr:
		return errno == unix.EADDRNOTAVAIL
	case Route:
		return errno == unix.ESRCH
	case Neigh, FDB, Nexthop:
		return errno == unix.ENOENT
	}
	return false
}
