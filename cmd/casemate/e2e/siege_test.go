//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var siegeTime = flag.Duration("siege", 0, "how long TestSiege attacks; 0: 60m with CASEMATE_SOAK=1")

// siegeEnv names the file that describes the part of this process, which the test has started in a host's network, in a
// siege.
const siegeEnv = "CASEMATE_SIEGE"

func init() {
	roles = append(roles, func() (asked bool, code int) {
		file := os.Getenv(siegeEnv)
		if file == "" {
			return false, 0
		}
		if err := siegePart(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return true, 1
		}
		return true, 0
	})
}

// bastionNice is the bastions' priority in a siege (setpriority(2)).
const bastionNice = -10

// siegeConf is the configuration of a process of a siege.
type siegeConf struct {
	Attack   bool
	Name     string   // of the host
	Addrs    []string // its own
	Bastions []string
	Honest   []string // addresses of honest hosts
	Roots    string   // PEM
	File     string   // URL of a file
	FileSum  string   // its SHA-256, hex
	Layer    string   // digest of a layer of siegeImage
}

const (
	siegeImage = "registry.k8s.io/siege/app:1"
	// siegeRepo has the referrers with large annotations.
	siegeRepo = "team/annotated"
	siegeOwn  = "registry.casemate.internal"
	// Files are put here and read below https://dl.k8s.io/siege/.
	siegeFiles = "https://casemate.internal/files/dl.k8s.io/siege/"
	// The password of ops, an honest user, and of mallory, a hostile user who may push.
	siegePassword = "correct horse"
	// Forged sources are addresses of this network, in which there are only the bastions.
	siegeNobody = "10.78"
)

// siegePart is one process of a siege. It reads the names of phases, a line each, until the end of its input, and then
// prints its counters as JSON.
func siegePart(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var conf siegeConf
	if err := json.Unmarshal(data, &conf); err != nil {
		return err
	}
	tl := &tally{Phases: map[string]map[string]*count{}}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var wg sync.WaitGroup
	begin := func() { beHonest(ctx, &wg, conf, tl) }
	if conf.Attack {
		begin = func() { err = beHostile(ctx, &wg, conf, tl) }
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		first := tl.enter(lines.Text())
		if first {
			begin()
		}
		if err != nil {
			return err
		}
	}
	stop()
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(tl)
}

// tally counts attempts, by phase and kind.
type tally struct {
	mu     sync.Mutex
	phase  string
	Phases map[string]map[string]*count
}

type count struct {
	Done    int
	Retried int       // needed another try
	Failed  int       // failed at the last try, too
	Ms      []float32 // how long each took, all its tries and pauses together
	Errors  map[string]int
}

// enter begins a phase.
func (tl *tally) enter(phase string) (first bool) {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	first, tl.phase = tl.phase == "", phase
	return first
}

func (tl *tally) now() string {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	return tl.phase
}

// add changes the count of a kind.
func (tl *tally) add(phase, kind string, f func(c *count)) {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	if tl.Phases[phase] == nil {
		tl.Phases[phase] = map[string]*count{}
	}
	c := tl.Phases[phase][kind]
	if c == nil {
		c = &count{Errors: map[string]int{}}
		tl.Phases[phase][kind] = c
	}
	f(c)
}

var siegeVaries = regexp.MustCompile(`[0-9a-f]{12,}|:\d{4,5}\b|/[0-9]+\b|\b\d+ms\b`)

// because notes why a try failed; what differs from try to try is left out.
func (c *count) because(err error) {
	why := siegeVaries.ReplaceAllString(err.Error(), "…")
	why = why[:min(len(why), 300)]
	if len(c.Errors) < 12 || c.Errors[why] > 0 {
		c.Errors[why]++
	}
}

// merge adds what another process counted.
func (tl *tally) merge(other *tally) {
	for phase, kinds := range other.Phases {
		for kind, o := range kinds {
			tl.add(phase, kind, func(c *count) {
				c.Done, c.Retried, c.Failed = c.Done+o.Done, c.Retried+o.Retried, c.Failed+o.Failed
				c.Ms = append(c.Ms, o.Ms...)
				for why, n := range o.Errors {
					c.Errors[why] += n
				}
			})
		}
	}
}

func (c *count) quantile(q float64) float32 {
	if len(c.Ms) == 0 {
		return 0
	}
	slices.Sort(c.Ms)
	return c.Ms[min(len(c.Ms)-1, int(q*float64(len(c.Ms))))]
}

// siegeProc is such a process, seen from the test.
type siegeProc struct {
	host *host
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

func (h *host) siegePart(t *testing.T, conf siegeConf) *siegeProc {
	t.Helper()
	conf.Name, conf.Addrs = h.name, append([]string{h.ip}, conf.Addrs...)
	data, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	// All hosts would have separate machines; here they share one. The bastions have the highest priority, honest hosts
	// the next, and other work of the machine has priority over attackers.
	nice := "-5"
	if conf.Attack {
		nice = "5"
	}
	p := &siegeProc{host: h, cmd: exec.Command("nsenter", "--net=/run/netns/"+h.ns, "nice", "-n", nice, os.Args[0])}
	p.cmd.Env = append(os.Environ(), siegeEnv+"="+h.write("siege.json", string(data)))
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	return p
}

func (p *siegeProc) enter(t *testing.T, phase string) {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, phase); err != nil {
		t.Fatalf("%s: %v", p.host.name, err)
	}
}

// end tells the process to end, which it does when its pending work is done, and returns its counters.
func (p *siegeProc) end(t *testing.T) *tally {
	t.Helper()
	p.in.Close()
	var tl tally
	if err := json.NewDecoder(p.out).Decode(&tl); err != nil {
		t.Errorf("%s: its counters: %v", p.host.name, err)
	}
	p.cmd.Wait()
	return &tl
}

// health is the resource usage of a bastion.
type health struct {
	goroutines, files int
	heap, rss         float64 // MiB; heap as Go's collector reports it, including garbage
	term              int     // raft's: each election begins a new one
	conns             int     // at ports 80 and 443
	cpu               float64 // seconds of processor time so far
	kept              int     // names and blobs in the tree
}

func (h health) String() string {
	return fmt.Sprintf("%5d goroutines %5d descriptors %6.0f MiB heap %6.0f MiB resident %5d http connections "+
		"%7.1f s CPU, term %d", h.goroutines, h.files, h.heap, h.rss, h.conns, h.cpu, h.term)
}

// health reads what /metrics and the kernel say of a bastion.
func (tr *trio) health(b *bastion) (h health, err error) {
	out, err := b.try("curl", "-fsS", "--max-time", "60", "http://"+b.ip+"/metrics")
	if err != nil {
		return h, fmt.Errorf("%s: /metrics: %s", b.name, out)
	}
	value := func(name string) float64 {
		m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(out)
		if m == nil {
			err = fmt.Errorf("%s: /metrics does not say %s", b.name, name)
			return 0
		}
		f, _ := strconv.ParseFloat(m[1], 64)
		return f
	}
	h.goroutines, h.heap = int(value("go_goroutines")), value("go_memstats_heap_alloc_bytes")/(1<<20)
	h.term, h.conns = int(value("casemate_raft_term")), int(value("casemate_http_connections"))
	h.cpu = value("process_cpu_seconds_total")
	h.kept = int(value("casemate_tree_entries") + value("casemate_tree_blobs"))
	proc := fmt.Sprintf("/proc/%d/", tr.procs[b].Process.Pid)
	files, ferr := os.ReadDir(proc + "fd")
	if ferr != nil {
		return h, ferr
	}
	h.files = len(files)
	status, ferr := os.ReadFile(proc + "status")
	if m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status); m != nil {
		kb, _ := strconv.Atoi(string(m[1]))
		h.rss = float64(kb) / 1024
	}
	return h, errors.Join(err, ferr)
}

// healths reads all three, as an operator would: each is asked again a few times.
func (tr *trio) healths(when string) (list []health) {
	tr.t.Helper()
	for _, b := range tr.nodes {
		h, err := tr.health(b)
		for try := 0; err != nil && try < 3; try++ {
			time.Sleep(time.Second)
			h, err = tr.health(b)
		}
		if err != nil {
			tr.t.Errorf("%s: %v", when, err)
		} else {
			tr.t.Logf("%-8s %s %s", when, b.name, h)
		}
		list = append(list, h)
	}
	return list
}

// stalls are times at which this machine did not schedule the processes.
type stalls struct {
	mu   sync.Mutex
	list []stall
}

type stall struct {
	end  time.Time
	long time.Duration
}

// stallMin is a third of the time in which a leader must hear of a majority.
const stallMin = 100 * time.Millisecond

// watch sleeps ten milliseconds at a time on each processor with the bastions' priority, and notes when it is woken
// much later: nothing that a bastion does or leaves undone can help then.
func (s *stalls) watch(ctx context.Context, wg *sync.WaitGroup) {
	var all unix.CPUSet
	unix.SchedGetaffinity(0, &all)
	for cpu, left := 0, all.Count(); left > 0; cpu++ {
		if !all.IsSet(cpu) {
			continue
		}
		left--
		wg.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
			var one unix.CPUSet
			one.Set(cpu)
			unix.SchedSetaffinity(0, &one)
			unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), bastionNice)
			for ctx.Err() == nil {
				began, sleep := time.Now(), unix.NsecToTimespec(int64(10*time.Millisecond))
				unix.Nanosleep(&sleep, nil)
				if took := time.Since(began); took > stallMin {
					s.mu.Lock()
					s.list = append(s.list, stall{time.Now(), took})
					s.mu.Unlock()
				}
			}
		})
	}
}

// near is the longest one that ended in the two seconds before a time or just after it.
func (s *stalls) near(at time.Time) (most time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.list {
		if since := at.Sub(st.end); since < 2*time.Second && since > -stallMin-st.long {
			most = max(most, st.long)
		}
	}
	return most
}

var termLine = regexp.MustCompile(`(?m)^time=(\S+) .*room=cluster .*\bterm=(\d+)$`)

// terms reads from the bastions' logs when each term of raft's was first known.
func (tr *trio) terms() map[string]time.Time {
	terms := map[string]time.Time{}
	for _, b := range tr.nodes {
		data, _ := os.ReadFile(b.path("casemate.log"))
		for _, m := range termLine.FindAllStringSubmatch(string(data), -1) {
			at, err := time.Parse(time.RFC3339Nano, m[1])
			if first, ok := terms[m[2]]; err == nil && (!ok || at.Before(first)) {
				terms[m[2]] = at
			}
		}
	}
	return terms
}

// TestSiege lets fifty addresses do everything at once that hostile hosts can do to three bastions, beside honest hosts
// that look up names, pull, push and download. No honest request may fail after the attempts that such clients make, no
// leader may lose its role, and when the attackers are gone, their resources are freed. The durations of honest
// requests are printed and not judged.
func TestSiege(t *testing.T) {
	long := *siegeTime
	if long == 0 && os.Getenv("CASEMATE_SOAK") != "" {
		long = time.Hour
	}
	if long == 0 {
		t.Skip("part of make soak: 60 minutes; shorter with -siege 2m")
	}
	const hostile, perHost, honest = 5, 10, 3
	l := newLab(t)
	tr := newTrio(t, l)
	n1 := tr.nodes[0]
	conf := siegeConf{Roots: n1.casemate(t, "ca")}
	resolv := "options timeout:5 attempts:2\n"
	for i, b := range tr.nodes {
		conf.Bastions = append(conf.Bastions, b.ip)
		resolv += "nameserver " + b.ip + "\n"
		must(t, "ip", "-n", b.ns, "addr", "add", fmt.Sprintf("%s.0.%d/16", siegeNobody, i+2), "dev", "eth0")
		if i > 0 { // the data of an hour of pushes is retained for an hour
			must(t, "mount", "-o", "remount,size=4g", b.path("disk"))
		}
	}
	for _, user := range []string{"ops", "mallory"} {
		out, err := n1.tryIn(siegePassword+"\n", n1.bin(), "--socket", n1.socket, "user", "add", user,
			"--password-stdin")
		if err != nil {
			t.Fatalf("user add: %v\n%s", err, out)
		}
	}

	// What there is to pull and to download.
	node := l.host("node", "")
	node.write("etc/resolv.conf", resolv)
	node.trust(conf.Roots)
	img := randomImage(t, 300<<10, 3)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	conf.Layer = digest.String()
	out, err := node.tryIn(siegePassword, client(t, "crane"), "auth", "login", siegeOwn, "-u", "ops",
		"--password-stdin")
	if err != nil {
		t.Fatalf("crane auth login: %v\n%s", err, out)
	}
	node.must(t, client(t, "crane"), "push", writeImage(t, node.path("app"), img), siegeOwn+"/"+siegeImage)
	ref := "registry.k8s.io/pause:3.10"
	pause := writeLayout(t, node.path("pause"), platforms(t, pauseImage(t)))
	node.must(t, client(t, "crane"), "push", "--index", pause, siegeOwn+"/"+ref)
	content := make([]byte, 1<<20)
	rand.Read(content)
	conf.File, conf.FileSum = "https://dl.k8s.io/siege/file", fmt.Sprintf("%x", sha256.Sum256(content))
	n1.casemate(t, "file", "put", conf.File, n1.write("tmp/file", string(content)))
	sock := node.containerd(t)
	node.must(t, "ctr", "-a", sock, "images", "pull", "--snapshotter", "native", ref)

	var good, bad []*siegeProc
	for i := range honest {
		good = append(good, l.host(fmt.Sprintf("good%d", i), "").siegePart(t, conf))
		conf.Honest = append(conf.Honest, good[i].host.ip)
	}
	conf.Attack = true
	for i := range hostile {
		h := l.host(fmt.Sprintf("bad%d", i), "")
		var more []string
		for j := range perHost - 1 {
			more = append(more, fmt.Sprintf("10.77.0.%d", 100+i*perHost+j))
			must(t, "ip", "-n", h.ns, "addr", "add", more[j]+"/24", "dev", "eth0")
		}
		must(t, "ip", "-n", h.ns, "route", "add", siegeNobody+".0.0/16", "dev", "eth0")
		c := conf
		c.Addrs = more
		bad = append(bad, h.siegePart(t, c))
	}
	tr.whole(3)
	for _, b := range tr.nodes {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", tr.procs[b].Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks { // threads that come later inherit it
			must(t, "renice", "-n", strconv.Itoa(bastionNice), "-p", task.Name())
		}
	}

	// Calm first: durations of honest requests on this machine, and the bastions' usage for them.
	calm := min(max(long/10, 10*time.Second), 2*time.Minute)
	for _, p := range good {
		p.enter(t, "calm")
	}
	time.Sleep(calm)
	before := tr.healths("before")
	leader, _ := tr.roles()

	for _, p := range append(slices.Clone(bad), good...) {
		p.enter(t, "siege")
	}
	pulling, stopPulls := context.WithCancel(context.Background())
	defer stopPulls()
	var wg sync.WaitGroup
	watching, stopWatch := context.WithCancel(context.Background())
	defer stopWatch()
	var watch sync.WaitGroup
	still := &stalls{}
	still.watch(watching, &watch)
	p := &pulls{}
	node.pullLoop(pulling, &wg, p, sock, ref)
	for i := range 4 {
		time.Sleep(long / 4)
		if i < 3 {
			tr.healths(fmt.Sprintf("%d/4", i+1))
		}
	}
	// Honest hosts complete their pending work while they are still attacked.
	stopPulls()
	wg.Wait()
	all, attacks := &tally{Phases: map[string]map[string]*count{}}, &tally{Phases: map[string]map[string]*count{}}
	for _, p := range good {
		all.merge(p.end(t))
	}
	last := tr.healths("end")
	stopWatch()
	watch.Wait()
	for _, p := range bad {
		attacks.merge(p.end(t))
	}

	t.Logf("%v of siege, %v of calm before", long, calm)
	t.Logf("%-22s %9s %9s", "attacks", "answered", "refused")
	for _, kind := range slices.Sorted(maps.Keys(attacks.Phases["siege"])) {
		c := attacks.Phases["siege"][kind]
		t.Logf("%-22s %9d %9d", kind, c.Done, c.Failed)
		if c.Done == 0 {
			t.Errorf("no attack %q got through to a bastion: the test attacks nothing with it: %v", kind, c.Errors)
		}
	}
	t.Logf("%-22s %9s %9s %9s %9s %9s %9s", "honest requests", "done", "retried", "failed", "p50 ms", "p99 ms",
		"max ms")
	for _, phase := range []string{"calm", "siege"} {
		for _, kind := range slices.Sorted(maps.Keys(all.Phases[phase])) {
			c := all.Phases[phase][kind]
			t.Logf("%-22s %9d %9d %9d %9.1f %9.1f %9.1f", phase+" "+kind, c.Done, c.Retried, c.Failed,
				c.quantile(0.5), c.quantile(0.99), c.quantile(1))
			for why, n := range c.Errors {
				t.Logf("    %d tries: %s", n, why)
			}
			if c.Failed > 0 {
				t.Errorf("%s: %d honest requests of %d failed at each try", kind, c.Failed, c.Done+c.Failed)
			}
			if c.Done == 0 {
				t.Errorf("%s: no honest request was made", kind)
			}
		}
	}
	t.Logf("containerd: %d pulls, of which %d needed another try, longest time between two %.1f s",
		p.done, p.retried, p.gap.Seconds())
	for _, out := range p.failed {
		t.Errorf("a pull by containerd failed twice:\n%s", out)
	}

	// No leader was lost: each election begins a new term. One that came when the machine ran nothing at all is not a
	// bastion's doing.
	t.Logf("the machine itself stood still %d times for more than %v", len(still.list), stallMin)
	terms, was, is := tr.terms(), 0, 0
	for i := range tr.nodes {
		was, is = max(was, before[i].term), max(is, last[i].term)
	}
	var at time.Time
	for term := is; term > was; term-- {
		if known, ok := terms[strconv.Itoa(term)]; ok { // otherwise no node won, and the next election came at once
			at = known
		}
		if stood := still.near(at); stood > 0 {
			t.Logf("term %d began at %s: the machine had stood still for %v", term, at.Format("15:04:05.000"), stood)
			continue
		}
		t.Errorf("term %d began at %s (term %d had the leader %s): a leader lost its place",
			term, at.Format("15:04:05.000"), was, leader.name)
	}
	// What the attackers took is given back. What idles has two minutes by the bastions' rules.
	tr.whole(3)
	for i, b := range tr.nodes {
		var h health
		settled := func() error {
			var err error
			if h, err = tr.health(b); err != nil {
				return err
			}
			was := before[i]
			more := 48 + 4*float64(max(0, h.kept-was.kept))/1024 // MiB; content of honest hosts stays in memory
			if h.goroutines > was.goroutines+64 || h.files > was.files+32 || h.heap > 2*was.heap+more {
				return fmt.Errorf("before: %s, now: %s", was, h)
			}
			return nil
		}
		for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(time.Second) {
			err := settled()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s retains resources of the attackers: %v", b.name, err)
				break
			}
		}
		t.Logf("%-8s %s %s", "after", b.name, h)
	}
	logs := 0
	for _, b := range tr.nodes {
		if data, err := os.ReadFile(filepath.Join(b.dir, "casemate.log")); err == nil {
			logs += strings.Count(string(data), "\n")
		}
	}
	t.Logf("the three bastions logged %d lines", logs)
}
