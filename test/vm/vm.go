package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// mostBoot is far above the usual 5 s, for a machine that is busy with other things.
const mostBoot = 5 * time.Minute

// Result is what a guest took.
type Result struct {
	Release string        // the kernel's, as uname -r says it
	Boot    time.Duration // from the start of qemu to the start of the command
	Run     time.Duration // from there to its end
	// Warnings are the lines of the console by which the kernel says that something is wrong with itself (WARNING, BUG, a task that hangs).
	Warnings []string
}

// ExitError is the end of a command with a status other than 0.
type ExitError struct {
	Argv   []string
	Status int // as a shell has it: 128 + N after signal N, 127 if there is no such program
}

// Error names the command and the status.
func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit status %d in the guest", strings.Join(e.Argv, " "), e.Status)
}

// Run boots a guest, runs the command in it, and returns when qemu has ended, with the Result of what was reached. It returns an [*ExitError] if the command
// ended with a status other than 0, and another error if it is not known how it ended.
func Run(ctx context.Context, config Config) (Result, error) {
	c, err := config.complete()
	if err != nil {
		return Result{}, err
	}
	release, err := os.ReadFile(c.Guest + "/release")
	if err != nil {
		return Result{}, err
	}
	result := Result{Release: strings.TrimSpace(string(release))}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slow := time.AfterFunc(mostBoot, func() { cancel(fmt.Errorf("the guest is not up after %s", mostBoot)) })
	defer slow.Stop()

	console := &console{to: c.Console}
	var end ending
	started := time.Now()
	err = c.boot(ctx, console, func(ports [3]io.Reader) {
		copied := make(chan struct{}, 2)
		for i, to := range []io.Writer{c.Stdout, c.Stderr} {
			if to == nil {
				to = io.Discard
			}
			go func() { end.copyErr[i] = copyAll(to, ports[i]); copied <- struct{}{} }()
		}
		end.read(ports[2], func() { slow.Stop() })
		<-copied
		<-copied
	})
	result.Warnings = console.warnings
	if !end.up.IsZero() {
		result.Boot, result.Run = end.up.Sub(started), time.Since(end.up)
	}
	if !end.ended.IsZero() {
		result.Run = end.ended.Sub(end.up)
	}
	return result, c.verdict(ctx, &end, err, console)
}

func (c Config) verdict(ctx context.Context, end *ending, qemu error, console *console) error {
	because := func(err error) error {
		return fmt.Errorf("run %s in a guest: %w; its console ends:\n%s", c.Argv[0], err, console.text())
	}
	switch {
	case end.failed != "":
		return because(errors.New(end.failed))
	case !end.ended.IsZero() && end.status != 0:
		return errors.Join(&ExitError{Argv: c.Argv, Status: end.status}, end.copyErr[0], end.copyErr[1])
	case !end.ended.IsZero():
		return errors.Join(end.copyErr[0], end.copyErr[1])
	case ctx.Err() != nil:
		return because(context.Cause(ctx))
	case qemu != nil:
		return because(qemu)
	case end.up.IsZero():
		return because(errors.New("it ended before it was up"))
	}
	return because(errors.New("it ended before the command did"))
}

// ending is what the third port says: "up" when the command starts, then "exit STATUS"; or "fail REASON".
type ending struct {
	up, ended time.Time
	status    int
	failed    string
	copyErr   [2]error
}

func (e *ending) read(port io.Reader, up func()) {
	for lines := bufio.NewScanner(port); lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "up":
			e.up = time.Now()
			up()
		case "exit":
			status, err := strconv.Atoi(rest)
			if err != nil {
				e.failed = fmt.Sprintf("it says %q", lines.Text())
			}
			e.status, e.ended = status, time.Now()
		case "fail":
			e.failed = rest
		default:
			e.failed = fmt.Sprintf("it says %q", lines.Text())
		}
	}
}

// copyAll reads to the end even if the writer fails, since the command would hang otherwise.
func copyAll(to io.Writer, from io.Reader) error {
	_, err := io.Copy(to, from)
	if err != nil {
		_, _ = io.Copy(io.Discard, from)
	}
	return err
}

// console passes on what is written to it, and keeps the tail and the warnings of the kernel. The writes come from one goroutine.
type console struct {
	to       io.Writer
	tail     []byte
	line     []byte
	warnings []string
}

func (c *console) Write(p []byte) (int, error) {
	const most = 4000
	c.tail = append(c.tail, p...)
	if len(c.tail) > 2*most {
		c.tail = append(c.tail[:0], c.tail[len(c.tail)-most:]...)
	}
	for _, b := range p {
		if b != '\n' {
			c.line = append(c.line, b)
			continue
		}
		if line := strings.TrimSpace(string(c.line)); isWarning(line) && len(c.warnings) < 100 {
			c.warnings = append(c.warnings, line)
		}
		c.line = c.line[:0]
	}
	if c.to != nil {
		_, _ = c.to.Write(p) // the guest does not end because nobody reads
	}
	return len(p), nil
}

func isWarning(line string) bool {
	for _, sign := range []string{"WARNING: ", "BUG: ", "Oops: ", "Kernel panic", "INFO: task ", "unregister_netdevice: waiting", "refcount_t: "} {
		if strings.Contains(line, sign) {
			return true
		}
	}
	return false
}

func (c *console) text() string {
	const most = 4000
	text := c.tail
	if len(text) > most {
		text = text[len(text)-most:]
		if _, rest, ok := strings.Cut(string(text), "\n"); ok {
			text = []byte(rest)
		}
	}
	return strings.TrimSpace(strings.ReplaceAll(string(text), "\r", ""))
}

// qemu returns the command without its files: the initramfs is file 3 of the process, the ports are 4, 5 and 6.
func (c Config) qemu() *exec.Cmd {
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-machine", "pc,vmport=off,smbus=off", "-accel", c.Accel, "-cpu", "max",
		"-smp", strconv.Itoa(c.CPUs), "-m", strconv.Itoa(c.MemoryMiB) + "M",
		"-kernel", c.Guest + "/vmlinuz", "-initrd", "/proc/self/fd/3",
		// A panic or an oops ends the guest. Warnings (level 4) are printed, what is less is not.
		"-append", "console=ttyS0 trace_clock=local loglevel=5 panic=-1 oops=panic mitigations=off nokaslr audit=0 apparmor=0 random.trust_cpu=on",
		"-virtfs", "local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-serial-pci,max_ports=4",
	}
	for i, name := range []string{"stdout", "stderr", "status"} {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=%s,fd=%d", name, 4+i), "-device", fmt.Sprintf("virtserialport,nr=%d,chardev=%s,name=%s", 1+i, name, name))
	}
	for i, dir := range c.Writable {
		args = append(args, "-virtfs", fmt.Sprintf("local,path=%s,mount_tag=writable%d,security_model=none,multidevs=remap", dir, i))
	}
	if c.Network {
		args = append(args, "-nic", "user,model=virtio-net-pci")
	}
	return exec.Command("qemu-system-x86_64", args...)
}
