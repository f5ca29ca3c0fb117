package main

import (
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

type object = map[string]any

// spec is the OCI runtime specification that containerd makes of a container of the pod.
func (n *host) spec(t *testing.T, c corev1.Container, args []string) object {
	t.Helper()
	security := c.SecurityContext
	if len(security.Capabilities.Drop) != 1 || security.Capabilities.Drop[0] != "ALL" {
		t.Fatalf("container %s keeps default capabilities", c.Name)
	}
	caps := []string{}
	for _, name := range security.Capabilities.Add {
		caps = append(caps, "CAP_"+string(name))
	}
	mounts := []object{
		{"destination": "/proc", "type": "proc", "source": "proc", "options": []string{"nosuid", "noexec", "nodev"}},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{"destination": "/sys", "type": "bind", "source": "/sys", "options": []string{"rbind", "nosuid", "noexec", "nodev", "ro"}},
	}
	for _, m := range c.VolumeMounts {
		access := "rw"
		if m.ReadOnly {
			access = "ro"
		}
		mounts = append(mounts, object{"destination": m.MountPath, "type": "bind", "source": n.source(t, m.Name), "options": []string{"rbind", "rprivate", access}})
	}
	if n.token != "" {
		mounts = append(mounts, object{"destination": "/var/run/secrets/kubernetes.io/serviceaccount", "type": "bind", "source": n.token, "options": []string{"rbind", "rprivate", "ro"}})
	}
	return object{
		"ociVersion": "1.0.2",
		"process": object{
			"user": object{"uid": *n.daemonSet.Spec.Template.Spec.SecurityContext.RunAsUser, "gid": *n.daemonSet.Spec.Template.Spec.SecurityContext.RunAsGroup},
			"args": append([]string{"/" + n.program}, args...), "env": append([]string{"PATH=/usr/sbin"}, n.env...), "cwd": "/",
			"noNewPrivileges": !*security.AllowPrivilegeEscalation,
			"capabilities":    object{"bounding": caps, "effective": caps, "permitted": caps},
		},
		"root":   object{"path": n.image, "readonly": *security.ReadOnlyRootFilesystem},
		"mounts": mounts,
		"linux": object{
			"namespaces": []object{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network", "path": n.ns.Path()}},
			"maskedPaths": []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
				"/sys/firmware", "/proc/scsi"},
			"readonlyPaths": []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			"seccomp": object{
				"defaultAction": "SCMP_ACT_ALLOW", "architectures": []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"},
				"syscalls": []object{{"names": strings.Fields(forbiddenCalls), "action": "SCMP_ACT_ERRNO"}},
			},
		},
	}
}

// source returns what a volume is on this host: a directory of the test, but the node's own settings.
func (n *host) source(t *testing.T, volume string) string {
	t.Helper()
	for _, v := range n.daemonSet.Spec.Template.Spec.Volumes {
		switch {
		case v.Name != volume:
		case v.ConfigMap != nil:
			return n.path("config")
		case v.HostPath != nil && strings.HasPrefix(v.HostPath.Path, "/proc/"):
			return v.HostPath.Path
		case v.HostPath != nil:
			return n.path(v.HostPath.Path)
		}
	}
	t.Fatalf("no volume %s", volume)
	return ""
}

// forbiddenCalls are those that the default profile of containerd and Docker refuses to a process without further capabilities.
const forbiddenCalls = `acct add_key bpf clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick get_mempolicy init_module
	io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind mount mount_setattr move_mount move_pages
	open_by_handle_at open_tree perf_event_open personality pivot_root process_madvise process_vm_readv process_vm_writev ptrace quotactl reboot request_key
	set_mempolicy setdomainname sethostname setns settimeofday swapoff swapon syslog umount2 unshare userfaultfd vhangup`

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
