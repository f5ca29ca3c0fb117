package servicefile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/podnet/podnet/internal/descfiles"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/kube"
)

// Options are the settings of a Source. The zero Options work.
type Options struct {
	NodeName string
	Poll     time.Duration // between looks when no event came; 0 = 10 s
	Hold     time.Duration // how long Services are kept when more than half of them go at once; 0 = one minute, negative = not

	// Node makes the Sink's node of a Node that is described, or of the zero Node. nil: name, zone and addresses.
	Node func(kube.Node, []netip.Prefix) (service.Node, bool)

	Logger *slog.Logger // nil = discard
}

// Source reads the descriptions below one path. Make one with New.
type Source struct {
	path   string
	sink   kube.Sink
	o      Options
	synced chan struct{}

	files map[string]*file // by path
	told  map[string]object
	gone  map[string]time.Time // missing, and kept until then

	mu      sync.Mutex // guards what follows
	status  kube.Status
	faults  []string
	problem string // what was logged last
}

// file is what is known of one file.
type file struct {
	id     fileID
	racy   bool // read within the resolution of its time stamp: may have changed since without showing it
	docs   []document
	faults []string
}

// fileID changes whenever the content does, except within the resolution of mtime.
type fileID struct {
	dev, inode uint64
	size       int64
	mtime      time.Time
}

// raceWindow is the coarsest time stamp of a file system in use: ext4 with 128-byte inodes counts seconds.
const raceWindow = 2 * time.Second

// New returns a Source that reads path, a file or a directory. Nothing is read before Run.
func New(path string, sink kube.Sink, o Options) *Source {
	if o.Poll == 0 {
		o.Poll = 10 * time.Second
	}
	if o.Hold == 0 {
		o.Hold = time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Node == nil {
		o.Node = func(n kube.Node, _ []netip.Prefix) (service.Node, bool) {
			return service.Node{Name: o.NodeName, Zone: n.Zone, Addrs: n.Addrs}, true
		}
	}
	return &Source{path: path, sink: sink, o: o, synced: make(chan struct{}), files: map[string]*file{}, told: map[string]object{}, gone: map[string]time.Time{}}
}

// Synced is closed when everything was read once.
func (s *Source) Synced() <-chan struct{} { return s.synced }

// Status returns how the Source is. Heard is when it last looked.
func (s *Source) Status() kube.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Node returns the Node that is described, or one that says nothing but that it exists.
func (s *Source) Node() kube.Node { return kube.Node{Exists: true} }

// Run looks until ctx ends, and returns its error.
func (s *Source) Run(ctx context.Context) error {
	return descfiles.Watching{Path: s.path, Poll: s.o.Poll, Logger: s.o.Logger}.Watch(ctx, s.Scan)
}

// Scan looks once and passes on what changed.
func (s *Source) Scan() {
	paths, err := descfiles.List(s.path)
	var faults []string
	if err != nil {
		faults = append(faults, "everything kept as it was: "+err.Error())
	} else {
		s.read(paths)
	}
	want, more := s.merge()
	faults = append(faults, more...)
	if err == nil {
		s.tell(want)
	}
	s.done(err, faults)
}

// done notes how a look went.
func (s *Source) done(err error, faults []string) {
	services, slices := 0, 0
	for _, o := range s.told {
		if o.service != nil {
			services++
		}
		if o.slice != nil {
			slices++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Services, s.status.Slices, s.status.HeldServices = services, slices, len(s.gone)
	s.status.Err = nil
	if len(faults) > 0 {
		s.status.Errors++
		s.status.Err = errors.New(strings.Join(faults, "; "))
	}
	if text := strings.Join(faults, "\n"); text != s.problem {
		s.problem = text
		for _, f := range faults {
			s.o.Logger.Warn("description of a Service", "problem", f)
		}
		if text == "" {
			s.o.Logger.Info("all descriptions of Services are well", "path", s.path)
		}
	}
	s.faults = faults
	if err != nil {
		return
	}
	s.status.Heard = time.Now()
	if !s.status.IsSynced {
		s.status.IsSynced = true
		close(s.synced)
	}
}

// read reads the files that changed and forgets those that are gone.
func (s *Source) read(paths []string) {
	before := s.files
	s.files = make(map[string]*file, len(paths))
	for _, path := range paths {
		f := before[path]
		if f == nil {
			f = &file{}
		}
		if err := f.refresh(path, s.o.NodeName); errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		} else if err != nil {
			f.id = fileID{}
			f.faults = []string{fmt.Sprintf("%s: kept as it was: %v", path, err)}
		}
		s.files[path] = f
	}
}

func (f *file) refresh(path, nodeName string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() { // opening a FIFO would block
		return errors.New("not a regular file")
	}
	if info.Size() > maxFile {
		return fmt.Errorf("more than %d bytes", maxFile)
	}
	id := fileID{size: info.Size(), mtime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.dev, id.inode = uint64(st.Dev), st.Ino
	}
	if id == f.id && !f.racy {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	known := make(map[sum]document, len(f.docs))
	for _, d := range f.docs {
		if d.err == nil {
			known[d.sum] = d
		}
	}
	f.racy, f.id = time.Since(id.mtime) < raceWindow, id
	f.update(path, parse(data, nodeName, known))
	return nil
}

// update takes over the documents that are whole, and keeps the last good form of those that are broken.
func (f *file) update(path string, docs []document) {
	var good []document
	broken, there := map[string]bool{}, map[string]bool{}
	f.faults = nil
	keepAll := len(docs) == 0
	if keepAll {
		f.faults = append(f.faults, path+": describes nothing: kept as it was (remove the file to remove that)")
	}
	for _, d := range docs {
		if d.err == nil {
			good = append(good, d)
			there[d.key] = true
			continue
		}
		f.faults = append(f.faults, fmt.Sprintf("%s:%d: %s", path, d.line, oneLine(strings.TrimSpace(d.key+": "+d.err.Error()))))
		broken[d.key] = true
		keepAll = keepAll || d.key == "" || d.key == "List"
	}
	for _, d := range f.docs {
		if d.err == nil && !there[d.key] && (keepAll || broken[d.key]) {
			good = append(good, d)
		}
	}
	f.docs = good
}

// oneLine makes an error that holds what somebody wrote fit for a log and a terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ReplaceAll(strings.TrimPrefix(text, ": "), "\n", "; "))
}

// merge joins the files in the order of their paths; the first description of an object counts.
func (s *Source) merge() (want map[string]object, faults []string) {
	want = map[string]object{}
	from := map[string]string{}
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		f := s.files[path]
		faults = append(faults, f.faults...)
		for _, d := range f.docs {
			for _, o := range d.objects {
				if first, ok := from[o.key]; ok {
					faults = append(faults, fmt.Sprintf("%s:%d: %s: described before, in %s", path, d.line, oneLine(o.key), first))
					continue
				}
				from[o.key], want[o.key] = path, o
			}
		}
	}
	return want, faults
}
