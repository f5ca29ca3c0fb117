// Dist makes what a release consists of, for make dist: per architecture a tarball of the static binaries, a CycloneDX SBOM per binary, the manifests, and
// SHA256SUMS over all of it.
//
// The same commit gives the same bytes, whoever builds, where and when: the toolchain and modules are locked, paths are trimmed, times are the commit's. No
// version control stamp is in the binaries, so that a tarball of the sources gives the same ones as a clone, and the container image has the same as the tarball.
// With -verify everything is built a second time from a copy of the tree in another directory with an empty build cache, and compared.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// programs are the packages below cmd/ that are released.
var programs = []string{"podnet-agent", "podnet-cni", "podnet-proxy"}

func main() {
	r := release{}
	var epoch int64
	var arches string
	var verify bool
	flag.StringVar(&r.source, "source", ".", "`directory` of the module")
	flag.StringVar(&r.out, "out", "dist", "`directory` to write")
	flag.StringVar(&r.version, "version", "unknown", "`version` of the release")
	flag.StringVar(&arches, "arch", "amd64,arm64", "architectures")
	flag.Int64Var(&epoch, "epoch", 0, "time of all files, in `seconds` since 1970; 0: that of the last commit")
	flag.BoolVar(&verify, "verify", false, "build a second time, elsewhere and from nothing, and compare")
	flag.Parse()
	r.arches = strings.Split(arches, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := r.run(ctx, epoch, verify); err != nil {
		fmt.Fprintf(os.Stderr, "dist: %v\n", err)
		os.Exit(1)
	}
}

type release struct {
	source, out, version string
	arches               []string
	epoch                time.Time
	env                  []string // besides this process's
}

func (r release) run(ctx context.Context, epoch int64, verify bool) error {
	var err error
	if r.epoch, err = commitTime(ctx, r.source, epoch); err != nil {
		return err
	}
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	if err := r.build(ctx); err != nil {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(r.out, "SHA256SUMS"))
	if err != nil {
		return err
	}
	fmt.Printf("%s", sums)
	if !verify {
		return nil
	}
	return r.verify(ctx, sums)
}

// commitTime returns epoch, or SOURCE_DATE_EPOCH, or the time of the last commit.
func commitTime(ctx context.Context, source string, epoch int64) (time.Time, error) {
	if epoch != 0 {
		return time.Unix(epoch, 0).UTC(), nil
	}
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		cmd := exec.CommandContext(ctx, "git", "log", "-1", "--format=%ct")
		cmd.Dir = source
		out, err := cmd.Output()
		if err != nil {
			return time.Time{}, fmt.Errorf("time of the last commit: %w: give -epoch", err)
		}
		text = string(bytes.TrimSpace(out))
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q: want seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// build writes the directory anew.
func (r release) build(ctx context.Context) error {
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	for _, arch := range r.arches {
		if err := r.buildArch(ctx, arch); err != nil {
			return fmt.Errorf("linux/%s: %w", arch, err)
		}
	}
	if err := r.manifests(); err != nil {
		return fmt.Errorf("manifests: %w", err)
	}
	return r.sums()
}

func (r release) buildArch(ctx context.Context, arch string) error {
	bin, err := os.MkdirTemp("", "podnet-dist-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=" + r.version, "-o", bin + "/"}
	for _, p := range programs {
		args = append(args, "./cmd/"+p)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = r.source
	// GOAMD64 and the like change the result: they are what the toolchain starts with.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=-mod=readonly", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOWORK=off")
	cmd.Env = append(cmd.Env, r.env...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	var files []file
	for _, p := range programs {
		data, err := os.ReadFile(filepath.Join(bin, p))
		if err != nil {
			return err
		}
		files = append(files, file{p, data, 0o755})
		bom, err := sbom(p, r.version, arch, data, r.epoch)
		if err != nil {
			return fmt.Errorf("SBOM of %s: %w", p, err)
		}
		if err := r.write(fmt.Sprintf("%s_%s_linux_%s.cdx.json", p, r.version, arch), bom); err != nil {
			return err
		}
	}
	for _, name := range []string{"LICENSE", "README.md"} {
		data, err := os.ReadFile(filepath.Join(r.source, name))
		if err != nil {
			return err
		}
		files = append(files, file{name, data, 0o644})
	}
	name := fmt.Sprintf("podnet_%s_linux_%s", r.version, arch)
	text, err := tarball(name, files, r.epoch)
	if err != nil {
		return err
	}
	return r.write(name+".tar.gz", text)
}

// manifests packs what an operator applies.
func (r release) manifests() error {
	var files []file
	for _, dir := range []string{"base", "overlays", "proxy", "uninstall", "grafana", "prometheus"} {
		root := filepath.Join(r.source, "deploy")
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			files = append(files, file{filepath.ToSlash(name), data, 0o644})
			return err
		})
		if err != nil {
			return err
		}
	}
	name := fmt.Sprintf("podnet_%s_deploy", r.version)
	text, err := tarball(name, files, r.epoch)
	if err != nil {
		return err
	}
	return r.write(name+".tar.gz", text)
}

// sums writes what sha256sum --check reads.
func (r release) sums() error {
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(r.out, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(data), e.Name())
	}
	return r.write("SHA256SUMS", text.Bytes())
}

func (r release) write(name string, data []byte) error {
	path := filepath.Join(r.out, name)
	return errors.Join(os.WriteFile(path, data, 0o644), os.Chtimes(path, r.epoch, r.epoch))
}

// verify builds from a copy of the tree, with an empty cache, and compares the sums.
func (r release) verify(ctx context.Context, want []byte) error {
	dir, err := os.MkdirTemp("", "podnet-dist-again-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	again := r
	again.source, again.out = filepath.Join(dir, "another", "place"), filepath.Join(dir, "dist")
	again.env = []string{"GOCACHE=" + filepath.Join(dir, "cache")}
	if err := copyTree(r.source, again.source, r.out); err != nil {
		return err
	}
	if err := again.build(ctx); err != nil {
		return fmt.Errorf("second build: %w", err)
	}
	have, err := os.ReadFile(filepath.Join(again.out, "SHA256SUMS"))
	if err != nil {
		return err
	}
	if !bytes.Equal(want, have) {
		return fmt.Errorf("not reproducible: the second build gives\n%s", have)
	}
	fmt.Println("a second build, in another directory and from an empty cache, gives the same bytes")
	return nil
}

// copyTree copies regular files, but no version control and no output.
func copyTree(from, to, except string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		absolute, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		if d.IsDir() && (absolute == except || d.Name() == ".git" || d.Name() == "bin") {
			return fs.SkipDir
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), data, 0o644)
	})
}
