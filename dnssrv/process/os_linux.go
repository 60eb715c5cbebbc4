package process

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// childSlice is the time slice of the process's threads (sched(7), sched_setattr(2); Linux 6.12, without effect
// before). A thread with a short slice is scheduled sooner, and gets no more of the processor than others. A higher
// priority would wake it for each packet at once, and let a flood of questions take the processor from the daemon.
const childSlice = 100 * time.Microsecond

// Exec starts cmd as a DNS process: it ends when this process ends for any reason, and can gain no privilege.
func Exec(cmd *exec.Cmd) (Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // ^C in a terminal is for the daemon, which stops the process in its shutdown order
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p := &executed{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		// Pdeathsig depends on the thread that started the process, and the settings below belong to the thread and are
		// inherited. So the thread does nothing else, and ends with this goroutine.
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			started <- fmt.Errorf("no_new_privs: %w", err)
			return
		}
		_ = shortTurns()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		// When memory is short, the DNS process should not be killed first; only root may set this.
		_ = os.WriteFile("/proc/"+strconv.Itoa(cmd.Process.Pid)+"/oom_score_adj", []byte("-900"), 0)
		_ = cmd.Wait()
	}()
	return p, <-started
}

// shortTurns sets childSlice for this thread and the processes that it starts.
func shortTurns() error {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return err
	}
	attr.Runtime = uint64(childSlice)
	return unix.SchedSetAttr(0, attr, 0)
}

type executed struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func (p *executed) Done() <-chan struct{} { return p.done }
func (p *executed) Kill()                 { p.cmd.Process.Kill() }

// AdmitOwner returns a check that a connecting process runs as root or as the user that owns the socket at path.
func AdmitOwner(path string) func(net.Conn) error {
	return func(conn net.Conn) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t).Uid
		u, ok := conn.(*net.UnixConn)
		if !ok {
			return errors.New("not a Unix socket")
		}
		raw, err := u.SyscallConn()
		if err != nil {
			return err
		}
		var cred *unix.Ucred
		var cerr error
		if err := raw.Control(func(fd uintptr) {
			cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		}); err != nil {
			return err
		}
		if cerr != nil {
			return cerr
		}
		if cred.Uid != owner && cred.Uid != 0 {
			return fmt.Errorf("user %d is neither the daemon's, %d, nor root", cred.Uid, owner)
		}
		return nil
	}
}

// NewTableFile makes a file in memory for a Table.
func NewTableFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("casemate-dns-table", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "table"), nil
}

// StoreFile stores a file with the service manager for the next process (sd_notify(3), FDSTORE), under the file's name.
func StoreFile(f *os.File) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return errors.New("there is no service manager")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	text := []byte("FDSTORE=1\nFDNAME=" + f.Name())
	err = unix.Sendmsg(fd, text, unix.UnixRights(int(f.Fd())), &unix.SockaddrUnix{Name: path}, 0)
	return os.NewSyscallError("sendmsg", err)
}

// punch returns a part of a file in memory to the kernel.
func punch(f *os.File, from, n int64) {
	_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, n)
}
