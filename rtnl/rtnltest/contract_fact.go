package rtnltest

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/rtnl"
)

// patience is how long a fact waits for what the kernel does later (a carrier, the end of a namespace).
const patience = 5 * time.Second

//go:embed facts/*.txt
var factFiles embed.FS

// A fact is one thing that the kernel does: its name, why it matters to podnet, and steps that show it. Steps are, one per line,
//
//	link add a type veth peer b             a change that succeeds (see rtnl.Change.String)
//	link del nope => ENODEV missing         one that fails; "missing" if the error matches fs.ErrNotExist
//	{ ... }                                 the changes of the lines between go into one Write
//	has route 10.0.0.0/24 dev a ...         an object is there, or will be soon; of a link only some words need be given
//	lacks addr ...                          there is none, or soon will be none
//	running a; stopped a                    the operational state of a link
//	get 10.0.0.1 => 10.0.0.1/32 dev a       the route that a packet would take (or an errno)
//	read sysctl net/x => value              a setting (or an errno)
//	read addrs a => ENODEV missing          likewise link, addrs, routes, neighs, fdb of a device
//	remove peer                             ends the other namespace
//
// With "peer: " in front a step takes place in another namespace, whose path replaces {peer}.
type fact struct {
	name, explanation string
	steps             []string
}

// readFacts reads the files in facts: "## name" begins a fact, indented lines are steps, the others explain.
func readFacts() ([]fact, error) {
	names, err := fs.Glob(factFiles, "facts/*.txt")
	if err != nil {
		return nil, err
	}
	var facts []fact
	for _, name := range names {
		text, err := factFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		group := strings.TrimSuffix(path.Base(name), ".txt")
		var f *fact
		for line := range strings.Lines(string(text)) {
			title, isTitle := strings.CutPrefix(line, "## ")
			switch {
			case isTitle:
				facts = append(facts, fact{name: group + "/" + strings.TrimSpace(title)})
				f = &facts[len(facts)-1]
			case f == nil || strings.TrimSpace(line) == "": // a preamble
			case line[0] == ' ' || line[0] == '\t':
				f.steps = append(f.steps, strings.TrimSpace(line))
			default:
				f.explanation += line
			}
		}
	}
	return facts, nil
}

// scene is a fact being shown.
type scene struct {
	t          testing.TB
	fact       fact
	here, peer Namespace
	step       string
	batch      []string // changes since "{"
	inBatch    bool
}

func (f fact) check(t *testing.T, h Harness) {
	s := &scene{t: t, fact: f, here: h.NewNamespace(t), peer: h.NewNamespace(t)}
	if f.explanation == "" || len(f.steps) == 0 {
		t.Fatal("the fact lacks an explanation or steps")
	}
	for _, step := range f.steps {
		s.step = step
		s.do(strings.ReplaceAll(step, "{peer}", s.peer.Path))
	}
	if s.inBatch {
		t.Fatal("a batch is not closed")
	}
}

func (s *scene) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("step %q: %s\nThe fact: %s", s.step, fmt.Sprintf(format, args...), s.fact.explanation)
}

func (s *scene) do(step string) {
	switch {
	case step == "{":
		s.inBatch = true
		return
	case step == "}":
		s.write(s.here, s.batch)
		s.batch, s.inBatch = nil, false
		return
	case s.inBatch:
		s.batch = append(s.batch, step)
		return
	}
	n := s.here
	if rest, ok := strings.CutPrefix(step, "peer: "); ok {
		n, step = s.peer, rest
	}
	verb, rest, _ := strings.Cut(step, " ")
	switch verb {
	case "has":
		s.await(func() (bool, string) { return s.find(n, rest) })
	case "lacks":
		s.await(func() (bool, string) {
			found, all := s.find(n, rest)
			return !found, all
		})
	case "running", "stopped":
		s.await(func() (bool, string) {
			l, err := n.Link(s.t.Context(), rest)
			return err == nil && l.Running == (verb == "running"), fmt.Sprint("running ", l.Running, err)
		})
	case "get":
		s.routeTo(n, rest)
	case "read":
		s.read(n, rest)
	case "remove":
		s.peer.Remove()
	default:
		s.write(n, []string{step})
	}
}

// write does the changes in one Write and compares each result with what stands behind "=>".
func (s *scene) write(n Namespace, steps []string) {
	var plan rtnl.Plan
	var answers []string
	for _, step := range steps {
		change, answer, _ := strings.Cut(step, " => ")
		c, err := parseChange(change)
		if err != nil {
			s.fail("%v", err)
		}
		plan, answers = append(plan, c), append(answers, answer)
	}
	errs := n.Write(s.t.Context(), plan)
	if errs == nil {
		errs = make([]error, len(plan))
	}
	if len(errs) != len(plan) {
		s.fail("%d results for %d changes", len(errs), len(plan))
	}
	for i, err := range errs {
		s.compare(plan[i].String(), err, answers[i])
	}
}

// compare checks that an error is the *rtnl.Error that an answer such as "ENODEV missing" describes.
func (s *scene) compare(what string, err error, answer string) {
	if answer == "" {
		if err != nil {
			s.fail("%s: %v", what, err)
		}
		return
	}
	name, rest, _ := strings.Cut(answer, " ")
	e, ok := errors.AsType[*rtnl.Error](err)
	if !ok || errnoName(e.Errno) != name {
		s.fail("%s: have %v (%T), want %s", what, err, err, name)
	}
	if missing := errors.Is(err, fs.ErrNotExist); missing != (rest == "missing") {
		s.fail("%s: error matches fs.ErrNotExist: %v", what, missing)
	}
	if exists := errors.Is(err, fs.ErrExist); exists != (e.Errno == syscall.EEXIST) {
		s.fail("%s: error matches fs.ErrExist: %v", what, exists)
	}
}

func errnoName(e syscall.Errno) string {
	if e == syscall.EOPNOTSUPP { // ErrnoName knows it as ENOTSUP
		return "EOPNOTSUPP"
	}
	return unix.ErrnoName(e)
}

func (s *scene) await(condition func() (bool, string)) {
	deadline := time.Now().Add(patience)
	for {
		ok, seen := condition()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			s.fail("not so; there is\n\t%s", seen)
		}
		select {
		case <-s.t.Context().Done():
			s.fail("%v", s.t.Context().Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// find reports whether there is an object that prints as want, and all objects of that kind.
func (s *scene) find(n Namespace, want string) (bool, string) {
	words := strings.Fields(want)
	after := func(keyword string) string {
		if i := slices.Index(words, keyword); i >= 0 && i+1 < len(words) {
			return words[i+1]
		}
		return ""
	}
	objects, err := list(s.t.Context(), n, words[0], after("dev"), after("table"))
	if err != nil {
		return false, err.Error()
	}
	found := slices.ContainsFunc(objects, func(o string) bool {
		return o == want || words[0] == "link" && isSubsequence(words, strings.Fields(o))
	})
	return found, strings.Join(objects, "\n\t")
}

func isSubsequence(words, of []string) bool {
	for _, w := range of {
		if len(words) > 0 && words[0] == w {
			words = words[1:]
		}
	}
	return len(words) == 0
}

// list prints the objects of a kind.
func list(ctx context.Context, n Conn, kind, link, table string) ([]string, error) {
	switch kind {
	case "link":
		l, err := n.Links(ctx)
		return printed(l), err
	case "addr":
		a, err := n.Addrs(ctx, "")
		return printed(a), err
	case "route":
		var f rtnl.RouteFilter
		if _, err := fmt.Sscan(table, &f.Table); table != "" && err != nil {
			return nil, err
		}
		r, err := n.Routes(ctx, f)
		return printed(r), err
	case "neigh":
		e, err := n.Neighs(ctx, link)
		return printed(e), err
	case "fdb":
		e, err := n.FDB(ctx, link)
		return printed(e), err
	case "nexthop":
		e, err := n.Nexthops(ctx, 0)
		return printed(e), err
	}
	return nil, fmt.Errorf("unknown kind of object %q", kind)
}

func printed[T fmt.Stringer](objects []T) []string {
	lines := make([]string, len(objects))
	for i, o := range objects {
		lines[i] = o.String()
	}
	slices.Sort(lines)
	return lines
}

func (s *scene) routeTo(n Namespace, step string) {
	dst, answer, _ := strings.Cut(step, " => ")
	ip, err := netip.ParseAddr(dst)
	if err != nil {
		s.fail("%v", err)
	}
	r, err := n.RouteTo(s.t.Context(), ip)
	if strings.HasPrefix(answer, "E") {
		s.compare("get", err, answer)
		return
	}
	if have := strings.TrimPrefix(r.String(), "route "); err != nil || have != answer {
		s.fail("have %s, %v", have, err)
	}
}

func (s *scene) read(n Namespace, step string) {
	query, answer, _ := strings.Cut(step, " => ")
	what, name, _ := strings.Cut(query, " ")
	ctx := s.t.Context()
	var value string
	var err error
	switch what {
	case "sysctl":
		value, err = n.Sysctl(ctx, name)
	case "link":
		_, err = n.Link(ctx, name)
	case "addrs":
		_, err = n.Addrs(ctx, name)
	case "routes":
		_, err = n.Routes(ctx, rtnl.RouteFilter{Link: name})
	case "neighs":
		_, err = n.Neighs(ctx, name)
	case "fdb":
		_, err = n.FDB(ctx, name)
	default:
		s.fail("unknown query")
	}
	if strings.HasPrefix(answer, "E") {
		s.compare(query, err, answer)
		return
	}
	if err != nil || value != answer {
		s.fail("have %q, %v", value, err)
	}
}
