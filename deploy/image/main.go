// Image puts programs of Debian and exactly the files that they need into a directory, which becomes part of a container image: nft for podnet-agent, which writes
// rules with it, and iptables for podnet-proxy (see docs/decisions.md). The images have no shell, no package manager and nothing else from a distribution.
//
// What it does: it checks every package in -debs against the lock file, unpacks them, follows the dynamic linker's path from the programs and plugins through every
// library, and copies what it found, with the packages' copyright files and their entries for vulnerability scanners (/var/lib/dpkg/status.d). What stands in
// the lock file behind the word "file" is copied: a path, or a pattern, or two paths for a symbolic link of our own.
//
// Failure: a package that is missing or differs from the lock, or a library that no package has, is an error. Needs dpkg-deb; runs nothing of what it
// unpacks, so it works for another architecture too.
package main

import (
	"bufio"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	lock := flag.String("lock", "deploy/image/nft.lock", "lock `file`")
	arch := flag.String("arch", "amd64", "amd64 or arm64")
	debs := flag.String("debs", "", "`directory` of the downloaded packages")
	out := flag.String("out", "", "`directory` to put the files into")
	flag.Parse()
	if err := build(*lock, *arch, *debs, *out); err != nil {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}

// locked is one line of the lock file.
type locked struct{ arch, name, version, sha256 string }

func build(lock, arch, debs, out string) error {
	packages, files, err := readLock(lock, arch)
	if err != nil {
		return err
	}
	unpacked, err := os.MkdirTemp("", "podnet-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(unpacked)
	for _, p := range packages {
		if err := p.unpack(debs, unpacked, out); err != nil {
			return err
		}
	}
	return copyFiles(unpacked, out, files)
}

// readLock returns the packages, and which of their files are wanted.
func readLock(path, arch string) (out []locked, files [][]string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 0 || words[0][0] == '#':
		case words[0] == "file" && len(words) <= 3:
			files = append(files, words[1:])
		case len(words) != 4:
			return nil, nil, fmt.Errorf("%s: %q: want architecture, package, version and SHA-256, or file and a path", path, lines.Text())
		case words[0] == arch:
			out = append(out, locked{words[0], words[1], words[2], words[3]})
		}
	}
	if len(out) == 0 || len(files) == 0 {
		return nil, nil, fmt.Errorf("%s: no packages for architecture %q, or no files", path, arch)
	}
	return out, files, lines.Err()
}

// copyFiles copies the files of the lock with what they need, and makes its symbolic links.
func copyFiles(root, out string, files [][]string) error {
	for _, f := range files {
		if len(f) == 2 {
			link := filepath.Join(out, f[0])
			if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(f[1], link)); err != nil {
				return err
			}
			continue
		}
		paths, err := filepath.Glob(filepath.Join(root, f[0]))
		if err != nil || len(paths) == 0 {
			return fmt.Errorf("file %s: there is none in the packages: %w", f[0], errors.Join(err, fs.ErrNotExist))
		}
		for _, full := range paths {
			path, err := filepath.Rel(root, full)
			if err == nil {
				err = copyClosure(root, out, path)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// unpack checks and unpacks one package, and leaves its copyright and its entry for scanners in out.
func (p locked) unpack(debs, unpacked, out string) error {
	name := fmt.Sprintf("%s_%s_%s.deb", p.name, strings.ReplaceAll(p.version, ":", "%3a"), p.arch) // as apt-get download names it
	deb := filepath.Join(debs, name)
	data, err := os.ReadFile(deb)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != p.sha256 {
		return fmt.Errorf("%s: SHA-256 is %x, want %s as in the lock file", deb, sum, p.sha256)
	}
	if msg, err := exec.Command("dpkg-deb", "-x", deb, unpacked).CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg-deb -x %s: %w: %s", deb, err, msg)
	}
	control, err := exec.Command("dpkg-deb", "-f", deb).Output()
	if err != nil {
		return fmt.Errorf("dpkg-deb -f %s: %w", deb, err)
	}
	copyright := filepath.Join("usr/share/doc", p.name, "copyright")
	return errors.Join(
		write(filepath.Join(out, "var/lib/dpkg/status.d", p.name), control, 0o644),
		copyFile(unpacked, out, copyright))
}

// copyClosure copies a program, its dynamic linker and all libraries.
func copyClosure(root, out, program string) error {
	todo, seen := []string{program}, map[string]bool{}
	for len(todo) > 0 {
		path := todo[0]
		todo = todo[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		if err := copyFile(root, out, path); err != nil {
			return err
		}
		needs, err := needed(root, path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		todo = append(todo, needs...)
	}
	return nil
}

// needed returns the paths of the dynamic linker and the libraries that a program or library names.
func needed(root, path string) ([]string, error) {
	full, err := resolve(root, path)
	if err != nil {
		return nil, err
	}
	f, err := elf.Open(full)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err != nil {
				return nil, err
			}
			out = append(out, strings.Trim(string(name), "/\x00"))
		}
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, name := range libraries {
		found, err := find(root, name)
		if err != nil {
			return nil, err
		}
		out = append(out, found)
	}
	return out, nil
}

// find looks for a library where Debian's dynamic linker does without a cache.
func find(root, name string) (string, error) {
	for _, pattern := range []string{"lib/*-linux-gnu", "usr/lib/*-linux-gnu", "lib", "usr/lib"} {
		matches, err := filepath.Glob(filepath.Join(root, pattern, name))
		if err != nil {
			return "", err
		}
		slices.Sort(matches)
		for _, m := range matches {
			return filepath.Rel(root, m)
		}
	}
	return "", fmt.Errorf("library %s is in no package of the lock file: add its package", name)
}

// copyFile copies the file that path leads to, under path's own name.
func copyFile(root, out, path string) error {
	full, err := resolve(root, path)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(full)
	if err != nil {
		return err
	}
	info, err := os.Stat(full)
	if err != nil {
		return err
	}
	return write(filepath.Join(out, path), data, info.Mode().Perm())
}

// resolve follows symbolic links as in a root directory of its own.
func resolve(root, path string) (string, error) {
	for range 10 {
		full := filepath.Join(root, path)
		info, err := os.Lstat(full)
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return full, nil
		}
		target, err := os.Readlink(full)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join("/", filepath.Dir(path), target)
		}
		path = target
	}
	return "", fmt.Errorf("%s: too many symbolic links", path)
}

func write(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, mode)
}
