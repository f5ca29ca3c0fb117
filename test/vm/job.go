package vm

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"strings"
)

//go:embed start
var start string

// initramfs returns the initramfs of test/vm/build with the job of this guest appended: the kernel unpacks one archive after the other.
func (c Config) initramfs() ([]byte, error) {
	base, err := os.ReadFile(c.Guest + "/initrd")
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(base)
	pad(b)
	archive{b}.add("job", 0o40755, "")
	archive{b}.add("job/start", 0o100755, start)
	archive{b}.add("job/settings", 0o100644, c.settings())
	archive{b}.add("job/command", 0o100644, c.command())
	archive{b}.add("TRAILER!!!", 0, "")
	return b.Bytes(), nil
}

// settings are the variables of the script start.
func (c Config) settings() string {
	var b strings.Builder
	set := func(name, value string) { fmt.Fprintf(&b, "%s=%s\n", name, quote(value)) }
	set("modules", c.Guest+"/modules")
	set("load", strings.Join(append(Modules(), c.Modules...), " "))
	set("writable", quoteAll(c.Writable)) // start evaluates it once more
	set("network", map[bool]string{true: "1", false: "0"}[c.Network])
	set("merge", map[bool]string{true: "1", false: "0"}[same(c.Stdout, c.Stderr)])
	return b.String()
}

// command is the script that becomes the command.
func (c Config) command() string {
	env := append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TMPDIR=/run/tmp", "PODNET_VM=1",
	}, c.Env...) // of two with one name, env(1) takes the last
	return fmt.Sprintf("cd %s || exit 126\nexec env -i %s %s\n", quote(c.Dir), quoteAll(env), quoteAll(c.Argv))
}

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}

// quote makes one word of a shell of any string.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// same reports whether two writers are one. Writers that cannot be compared are not.
func same(a, b any) bool {
	defer func() { _ = recover() }()
	return a == b
}

// archive is a cpio archive in the format "newc", which the kernel reads (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct{ *bytes.Buffer }

func (a archive) add(name string, mode uint32, data string) {
	a.WriteString("070701")
	for _, field := range []uint32{0, mode, 0, 0, 1, 0, uint32(len(data)), 0, 0, 0, 0, uint32(len(name) + 1), 0} {
		fmt.Fprintf(a, "%08X", field)
	}
	a.WriteString(name + "\x00")
	pad(a.Buffer)
	a.WriteString(data)
	pad(a.Buffer)
}

// pad fills up to a multiple of four bytes.
func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
