package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A Server is a running store. Its methods are safe for concurrent use.
type Server struct {
	store    Store
	url      string
	addrs    []string
	version  string
	provider string
	shared   bool // tests must not take it from each other

	nodes []*node // none if the server was running before
	dir   *tempDir
}

// Install returns the command that runs a server, building it first if this machine has not done so before. An error that
// matches ErrUnavailable says what is missing.
func Install(ctx context.Context, store Store) (argv []string, err error) {
	prog, err := programOf(store)
	if err != nil {
		return nil, err
	}
	return prog.find(ctx)
}

// Launch starts a server and returns once it takes reads and writes. The caller closes it. An error that matches
// ErrUnavailable says why this machine cannot run such a server. Building a server for the first time takes a minute
// (etcd) or several (Consul); ctx bounds that and the start, not the server's life.
func Launch(ctx context.Context, spec Spec) (*Server, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	if err := localAllowed(); err != nil {
		return nil, err
	}
	prog, err := programOf(spec.Store)
	if err != nil {
		return nil, err
	}
	argv, err := prog.find(ctx)
	if err != nil {
		return nil, err
	}
	s, err := launch(ctx, spec, prog, argv)
	if errors.Is(err, errExited) {
		// Somebody else may have taken a port between our choice and the server's start: once more, with others.
		s, err = launch(ctx, spec, prog, argv)
	}
	if err != nil {
		return nil, fmt.Errorf("testserver: start %s: %w", spec.Store, err)
	}
	return s, nil
}

func launch(ctx context.Context, spec Spec, prog program, argv []string) (_ *Server, err error) {
	dir, err := newTempDir(string(spec.Store))
	if err != nil {
		return nil, err
	}
	s := &Server{store: spec.Store, provider: "local", dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	n, err := newNode(filepath.Join(dir.path, "node0"), spec, prog, argv)
	if err != nil {
		return nil, err
	}
	s.nodes = []*node{n}
	s.addrs = []string{n.addr(0)}
	s.url = string(s.store) + "://" + strings.Join(s.addrs, ",")
	s.version, err = n.start(ctx)
	return s, err
}

func newNode(dir string, spec Spec, prog program, argv []string) (*node, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	ports, err := freePorts(prog.ports())
	if err != nil {
		return nil, err
	}
	m := member{dir: dir, ports: ports}
	args, err := prog.configure(&m, spec)
	if err != nil {
		return nil, err
	}
	return &node{member: m, prog: prog, argv: append(argv[:len(argv):len(argv)], args...)}, nil
}

// Store returns the kind of server.
func (s *Server) Store() Store { return s.store }

// URL returns the address to open the store by, such as "etcd://127.0.0.1:12379".
func (s *Server) URL() string { return s.url }

// Addrs returns the host and port of each node's client listener.
func (s *Server) Addrs() []string { return append([]string(nil), s.addrs...) }

// Version returns the server's own version, such as "3.7.3", or "" for a server that the environment named.
func (s *Server) Version() string { return s.version }

// Provider returns "local" for processes of this rig and "environment" for a server that the environment named.
func (s *Server) Provider() string { return s.provider }

func (s *Server) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s", s.store, s.version)) + " (" + s.provider + ")"
}

// Kill ends node i with SIGKILL, without any chance to tidy up, and returns once it is gone. Nodes count from 0. Killing a
// node that does not run is no error.
func (s *Server) Kill(i int) error {
	return s.on("kill", i, (*node).kill)
}

// Stop asks a node to end, as an operator would, and returns once it has. A node that does not end within 15 s, or until
// ctx ends, is killed and the error says so.
func (s *Server) Stop(ctx context.Context, i int) error {
	return s.on("stop", i, func(n *node) error { return n.stop(ctx) })
}

// Pause makes a node unresponsive without closing its connections (SIGSTOP), until Resume.
func (s *Server) Pause(i int) error {
	return s.on("pause", i, (*node).pause)
}

// Resume lets a paused node go on. It is no error if the node was not paused.
func (s *Server) Resume(i int) error {
	return s.on("resume", i, (*node).resume)
}

// Restart starts a node again with its address and data, after stopping it as Stop does if it runs, and returns once it
// serves.
func (s *Server) Restart(ctx context.Context, i int) error {
	return s.on("restart", i, func(n *node) error {
		if err := n.stop(ctx); err != nil {
			return err
		}
		_, err := n.start(ctx)
		return err
	})
}

// Log returns the end of what a node has written to its standard output and error.
func (s *Server) Log(i int) string {
	if i < 0 || i >= len(s.nodes) {
		return ""
	}
	return s.nodes[i].logTail()
}

func (s *Server) on(verb string, i int, do func(*node) error) error {
	fail := func(err error) error { return fmt.Errorf("testserver: %s node %d of %s: %w", verb, i, s.store, err) }
	switch {
	case s.shared:
		return fail(errors.New("the server is shared with other tests; use Start"))
	case len(s.nodes) == 0:
		return fail(errors.ErrUnsupported)
	case i < 0 || i >= len(s.nodes):
		return fail(fmt.Errorf("there are %d nodes", len(s.nodes)))
	}
	if err := do(s.nodes[i]); err != nil {
		return fail(err)
	}
	return nil
}

// Close kills every node and removes its data. It is idempotent. A server that the environment named is left alone.
func (s *Server) Close() error {
	var errs []error
	for _, n := range s.nodes {
		errs = append(errs, n.kill())
	}
	if s.dir != nil {
		errs = append(errs, s.dir.remove())
	}
	return errors.Join(errs...)
}
