package testserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// apart runs nodes as processes of this machine, each in a network of its own (a namespace of Linux). One more namespace is
// the router that joins them with this process's network:
//
//	tests x.1 ── x.254 router ─┬─ x.10 node 0
//	                           ├─ x.11 node 1
//	                           └─ …
//
// Namespaces that have no name last as long as somebody holds them: this process, by a file, and the servers that run in
// them. Links go with their ends. So a process that is killed leaves nothing of it behind.
type apart struct {
	local
	net    string   // the first three numbers of all addresses, with a dot
	link   string   // this process's end of the link to the router; one for each net
	router *os.File // the namespace
	spaces []*os.File

	mu    sync.Mutex
	rules int // in force at the router
}

const (
	apartHost   = 1
	apartRouter = 254
	apartNodes  = 10 // and on
	apartRules  = 100
)

// newApart makes the networks of n nodes.
func newApart(ctx context.Context, argv []string, n int) (Engine, error) {
	for _, tool := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, unavailable("networks of their own for nodes need iproute2 and util-linux: %w", err)
		}
	}
	var errs []error
	for range 5 { // somebody else may use the addresses
		a := &apart{local: local{argv: argv}}
		err := a.build(ctx, n)
		if err == nil {
			return a, nil
		}
		errs = append(errs, err, a.Close())
		if errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// build takes one of the 512 nets that are set aside for tests of network devices (RFC 2544), which no route leads to.
func (a *apart) build(ctx context.Context, n int) (err error) {
	b, c := 18+rand.IntN(2), rand.IntN(256)
	a.net = fmt.Sprintf("198.%d.%d.", b, c)
	link := fmt.Sprintf("kv%d-%d", b, c)
	if _, err := net.InterfaceByName(link); err == nil {
		return fmt.Errorf("%s is there already", link)
	}
	if a.router, err = newNamespace(forward); err != nil {
		return unavailable("nodes cannot have networks of their own: %w", err)
	}
	host, router := a.addr(apartHost), a.addr(apartRouter)
	if err := a.ip(ctx, nil, fmt.Sprintf("link add %s type veth peer name out netns %s", link, path(a.router))); err != nil {
		return unavailable("nodes cannot have networks of their own: %w", err)
	}
	a.link = link
	if err := a.ip(ctx, nil,
		fmt.Sprintf("addr add %s peer %s dev %s", host, router, link),
		fmt.Sprintf("link set %s up", link),
		fmt.Sprintf("route add %s0/24 via %s", a.net, router)); err != nil {
		return err
	}
	lines := []string{fmt.Sprintf("addr add %s peer %s dev out", router, host), "link set out up"}
	for i := range n {
		space, err := newNamespace(nil)
		if err != nil {
			return err
		}
		a.spaces = append(a.spaces, space)
		lines = append(lines,
			fmt.Sprintf("link add n%d type veth peer name eth0 netns %s", i, path(space)),
			fmt.Sprintf("addr add %s peer %s dev n%d", router, a.addr(apartNodes+i), i),
			fmt.Sprintf("link set n%d up", i))
	}
	if err := a.ip(ctx, a.router, lines...); err != nil {
		return err
	}
	for i, space := range a.spaces {
		if err := a.ip(ctx, space,
			"link set lo up",
			fmt.Sprintf("addr add %s peer %s dev eth0", a.addr(apartNodes+i), router), "link set eth0 up",
			"route add default via "+router); err != nil {
			return err
		}
	}
	return nil
}

func (a *apart) addr(host int) string { return fmt.Sprintf("%s%d", a.net, host) }

// newNamespace makes a network and runs setUp, if there is one, in it.
func newNamespace(setUp func() error) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	made := make(chan result)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so that nothing else runs in the namespace.
		runtime.LockOSThread()
		var r result
		if r.err = syscall.Unshare(syscall.CLONE_NEWNET); r.err != nil {
			r.err = fmt.Errorf("unshare: %w", r.err)
		}
		if r.err == nil && setUp != nil {
			r.err = setUp()
		}
		if r.err == nil {
			r.f, r.err = os.Open("/proc/thread-self/ns/net")
		}
		made <- r
	}()
	r := <-made
	return r.f, r.err
}

// forward makes a router of the thread's namespace.
func forward() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }

// path names a namespace for other processes, while this one holds it.
func path(space *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), space.Fd()) }

// in is the start of a command line that runs in a namespace.
func in(space *os.File) []string { return []string{"nsenter", "--net=" + path(space), "--"} }

// ip configures a network, or this process's.
func (a *apart) ip(ctx context.Context, space *os.File, lines ...string) error {
	argv := []string{"ip", "-batch", "-"}
	if space != nil {
		argv = append(in(space), argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Name implements Engine.
func (*apart) Name() string { return "local, apart" }

// Start implements Engine.
func (a *apart) Start(_ context.Context, i int) (Process, error) {
	return a.run(append(in(a.spaces[i]), a.argv...), i)
}

// hosts implements router.
func (a *apart) hosts() (hosts []string) {
	for i := range a.spaces {
		hosts = append(hosts, a.addr(apartNodes+i))
	}
	return hosts
}

// part implements router. The router loses what goes from one side to the other.
func (a *apart) part(away map[int]bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var lines []string
	for i := range a.rules {
		lines = append(lines, fmt.Sprintf("rule del pref %d", apartRules+i))
	}
	a.rules = 0
	for i := range a.spaces {
		for j := range a.spaces {
			if away[i] != away[j] {
				lines = append(lines, fmt.Sprintf("rule add pref %d iif n%d to %s blackhole", apartRules+a.rules, i, a.addr(apartNodes+j)))
				a.rules++
			}
		}
	}
	if lines == nil {
		return nil
	}
	return a.ip(context.Background(), a.router, lines...) // its callers have none
}

// Close implements Engine.
func (a *apart) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	if a.link != "" { // at once: what the kernel does by itself takes a while
		// In a context of its own: the test's has ended.
		errs = append(errs, a.ip(context.Background(), nil, "link del "+a.link))
		a.link = ""
	}
	for _, f := range append(a.spaces, a.router) {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	a.spaces, a.router = nil, nil
	return errors.Join(errs...)
}
