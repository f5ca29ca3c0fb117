package nodefile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/internal/descfiles"
)

// Options are the knobs of a Source; the zero Options works.
type Options struct {
	Poll   time.Duration // between looks when no event came; 0 = 10 s
	Logger *slog.Logger  // nil = discard
}

// Source reads the descriptions below one path.
type Source struct {
	path     string
	poll     time.Duration
	log      *slog.Logger
	files    map[string]*file // by path
	snapshot atomic.Pointer[node.Snapshot]
}

// file is what is known of one file.
type file struct {
	id       fileID
	racy     bool // read within the resolution of its time stamp: may have changed since without showing it
	docs     []document
	problems []string
}

// fileID changes whenever the content does, except within the resolution of mtime.
type fileID struct {
	dev, inode uint64
	size       int64
	mtime      time.Time
}

// raceWindow is the coarsest time stamp of a file system in use: ext4 with 128-byte inodes counts seconds.
const raceWindow = 2 * time.Second

// New returns a source that reads path, a file or a directory. Nothing is read before Scan or Run.
func New(path string, o Options) *Source {
	s := &Source{path: path, poll: o.Poll, log: o.Logger, files: make(map[string]*file)}
	if s.poll == 0 {
		s.poll = 10 * time.Second
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.snapshot.Store(&node.Snapshot{})
	return s
}

// Snapshot returns what the last look found.
func (s *Source) Snapshot() node.Snapshot { return *s.snapshot.Load() }

// Scan looks once and reports whether the snapshot changed.
func (s *Source) Scan() bool {
	paths, err := descfiles.List(s.path)
	var problems []string
	if err != nil {
		problems = append(problems, "nodes kept as they were: "+err.Error())
	} else {
		s.read(paths)
	}
	next := &node.Snapshot{Synced: err == nil || s.Snapshot().Synced}
	next.Nodes, next.Problems = s.merge(problems)
	old := s.snapshot.Swap(next)
	return old.Synced != next.Synced || !slices.EqualFunc(old.Nodes, next.Nodes, node.Node.Equal) || !slices.Equal(old.Problems, next.Problems)
}

// read reads the files that changed and forgets those that are gone.
func (s *Source) read(paths []string) {
	gone := s.files
	s.files = make(map[string]*file, len(paths))
	for _, path := range paths {
		f := gone[path]
		if f == nil {
			f = &file{}
		}
		if err := f.refresh(path); errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		} else if err != nil {
			f.id = fileID{}
			f.problems = []string{fmt.Sprintf("%s: nodes kept as they were: %v", path, err)}
		}
		s.files[path] = f
	}
}

func (f *file) refresh(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() { // opening a FIFO would block
		return errors.New("not a regular file")
	}
	id := fileID{size: info.Size(), mtime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.dev, id.inode = uint64(st.Dev), st.Ino
	}
	if id == f.id && !f.racy {
		return nil
	}
	data, err := readAll(path)
	if err != nil {
		return err
	}
	known := make(map[sum]node.Node, len(f.docs))
	for _, d := range f.docs {
		known[d.sum] = d.node
	}
	f.racy = time.Since(id.mtime) < raceWindow
	f.id = id
	f.update(path, parse(data, strings.EqualFold(filepath.Ext(path), ".json"), known))
	return nil
}

func readAll(path string) ([]byte, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("more than %d bytes", maxFile)
	}
	return data, nil
}

// update takes over the documents that are whole, and keeps the last good form of those that are broken.
func (f *file) update(path string, docs []document) {
	var good []document
	named := make(map[string]bool, len(docs))
	var broken []document
	f.problems = nil
	for _, d := range docs {
		if d.name != "" && !named[d.name] && d.err == nil {
			good = append(good, d)
		}
		if d.err != nil {
			broken = append(broken, d)
		} else if named[d.name] {
			f.problems = append(f.problems, fmt.Sprintf("%s:%d: name %q: described before in this file", path, d.line, d.name))
		}
		if d.name != "" {
			named[d.name] = true
		}
	}
	keepAll := len(docs) == 0
	if keepAll {
		f.problems = append(f.problems, fmt.Sprintf("%s: describes no node: nodes kept as they were (remove the file to remove them)", path))
	}
	keep := make(map[string]bool)
	for _, d := range broken {
		keepAll = keepAll || d.name == ""
		keep[d.name] = true
		f.problems = append(f.problems, fmt.Sprintf("%s:%d: %s", path, d.line, oneLine(d.err)))
	}
	for _, d := range f.docs {
		if keep[d.name] && !slices.ContainsFunc(good, func(g document) bool { return g.name == d.name }) || keepAll && !named[d.name] {
			good = append(good, d)
		}
	}
	f.docs = good
}

// oneLine makes an error that holds what somebody wrote fit for a log and a terminal.
func oneLine(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

// merge joins the files in the order of their paths; the first description of a name counts.
func (s *Source) merge(problems []string) ([]node.Node, []string) {
	var nodes []node.Node
	from := make(map[string]string)
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		f := s.files[path]
		problems = append(problems, f.problems...)
		for _, d := range f.docs {
			if first, ok := from[d.name]; ok {
				problems = append(problems, fmt.Sprintf("%s:%d: name %q: described in %s", path, d.line, d.name, first))
				continue
			}
			from[d.name] = path
			nodes = append(nodes, d.node)
		}
	}
	slices.Sort(problems)
	return nodes, problems
}

// Run looks until ctx ends, and calls notify after each look that changed the snapshot.
func (s *Source) Run(ctx context.Context, notify func()) error {
	return descfiles.Watching{Path: s.path, Poll: s.poll, Logger: s.log}.Watch(ctx, func() {
		if s.Scan() {
			notify()
		}
	})
}
