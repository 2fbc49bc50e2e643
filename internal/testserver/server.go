package testserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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

	cluster cluster
	engine  Engine
	nodes   []*node // none if the server was running before
	dir     *tempDir
}

// Install returns the command that runs a server, building it first if this machine has not done so before. An error that
// matches ErrUnavailable says what is missing.
func Install(ctx context.Context, store Store) (argv []string, err error) {
	prog, err := programOf(Spec{Store: store})
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
	prog, err := programOf(spec)
	if err != nil {
		return nil, err
	}
	argv, err := prog.find(ctx)
	if err != nil {
		return nil, err
	}
	return LaunchIn(ctx, spec, func() (Engine, error) {
		if spec.Apart {
			n, _ := prog.nodes(spec)
			return newApart(ctx, argv, n)
		}
		return &local{argv: argv}, nil
	})
}

// LaunchIn is Launch with nodes that an engine runs, whatever KV_TEST_PROVIDER says. It may need a second engine.
func LaunchIn(ctx context.Context, spec Spec, engine func() (Engine, error)) (*Server, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	prog, err := programOf(spec)
	if err != nil {
		return nil, err
	}
	s, err := launch(ctx, spec, prog, engine)
	if errors.Is(err, ErrExited) {
		// Somebody else may have taken a port between our choice and the server's start: once more, with others.
		s, err = launch(ctx, spec, prog, engine)
	}
	if err != nil {
		return nil, fmt.Errorf("testserver: start %s: %w", spec.Store, err)
	}
	return s, nil
}

func launch(ctx context.Context, spec Spec, prog program, newEngine func() (Engine, error)) (_ *Server, err error) {
	dir, err := newTempDir(string(spec.Store))
	if err != nil {
		return nil, err
	}
	s := &Server{store: spec.Store, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	engine, err := newEngine()
	if err != nil {
		return nil, err
	}
	s.engine, s.provider = engine, engine.Name()
	if err := s.place(ctx, spec, prog); err != nil {
		return nil, err
	}
	if err := startAll(ctx, s.nodes); err != nil {
		return nil, err
	}
	if s.cluster.host, err = engine.Host(ctx); err != nil {
		return nil, err
	}
	if s.cluster.host != loopbackHost && (spec.Sentinel || spec.Cluster) {
		return nil, fmt.Errorf("the servers would send clients to %s, which is not where they are: %s", loopbackHost, s.cluster.host)
	}
	s.addrs = prog.clients(&s.cluster)
	s.url = string(s.store) + "://" + strings.Join(s.addrs, ",")
	if s.version, err = awaitAll(ctx, s.nodes); err != nil {
		return nil, err
	}
	if err := prog.setUp(ctx, &s.cluster); err != nil {
		return nil, fmt.Errorf("set up: %w; the log of node 0 ends:\n%s", err, s.Log(0))
	}
	return s, nil
}

// startAll starts nodes, all of them before anybody waits for the first: one alone may not be able to serve.
func startAll(ctx context.Context, nodes []*node) error {
	for _, n := range nodes {
		if err := n.start(ctx); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	return nil
}

func awaitAll(ctx context.Context, nodes []*node) (version string, err error) {
	for _, n := range nodes {
		if version, err = n.await(ctx); err != nil {
			return "", fmt.Errorf("%s: %w", n.name, err)
		}
	}
	return version, nil
}

// Store returns the kind of server.
func (s *Server) Store() Store { return s.store }

// URL returns the address to open the store by, such as "etcd://127.0.0.1:12379".
func (s *Server) URL() string { return s.url }

// Addrs returns the host and port of each node's client listener.
func (s *Server) Addrs() []string { return append([]string(nil), s.addrs...) }

// Version returns the server's own version, such as "3.7.3", or "" for a server that the environment named.
func (s *Server) Version() string { return s.version }

// Provider returns "local" for processes of this rig, its Engine's name for others, and "environment" for a server that the environment named.
func (s *Server) Provider() string { return s.provider }

func (s *Server) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s", s.store, s.version)) + " (" + s.provider + ")"
}

// TLS returns what a client needs to connect, or nil for a server without. The caller may change it.
func (s *Server) TLS() *tls.Config {
	if s.cluster.pki == nil {
		return nil
	}
	return s.cluster.pki.trusted.Clone()
}

// WrongTLS returns a configuration of another authority, or nil for a server without TLS: it trusts this server as little
// as the server does its certificate.
func (s *Server) WrongTLS() *tls.Config {
	if s.cluster.pki == nil {
		return nil
	}
	return s.cluster.pki.wrong.Clone()
}

// TLSFiles returns the PEM files that TLS is made from, for programs that take file names: the authority, and a client's
// certificate and key. They are empty for a server without TLS.
func (s *Server) TLSFiles() (ca, cert, key string) {
	if p := s.cluster.pki; p != nil {
		return p.ca, p.client, p.clientKey
	}
	return "", "", ""
}

// Credentials returns those of a user who may do everything, for a server with Spec.Auth.
func (s *Server) Credentials() Credentials { return s.cluster.admin }

// LimitedCredentials returns those of a user who may read and write LimitedRoot only, for a server with Spec.Auth.
func (s *Server) LimitedCredentials() Credentials { return s.cluster.limited }

// Kill ends nodes with SIGKILL, without any chance to tidy up, and returns once they are gone. Nodes count from 0; to
// name none means all, here and in the methods that follow. Killing a node that does not run is no error.
func (s *Server) Kill(nodes ...int) error {
	return s.each("kill", nodes, (*node).kill)
}

// Stop asks nodes to end, as an operator would, and returns once they have, one after the other. A node that does not end
// within 15 s, or until ctx ends, is killed and the error says so.
func (s *Server) Stop(ctx context.Context, nodes ...int) error {
	return s.each("stop", nodes, func(n *node) error { return n.stop(ctx) })
}

// Pause makes nodes unresponsive without closing their connections (SIGSTOP), until Resume.
func (s *Server) Pause(nodes ...int) error {
	return s.each("pause", nodes, (*node).pause)
}

// Resume lets paused nodes go on. It is no error if a node was not paused.
func (s *Server) Resume(nodes ...int) error {
	return s.each("resume", nodes, (*node).resume)
}

// Restart starts nodes again with their addresses and data, after stopping them as Stop does if they run, and returns
// once all of them serve. Nodes that cannot serve without each other have to be named in one call.
func (s *Server) Restart(ctx context.Context, nodes ...int) error {
	chosen, err := s.choose("restart", nodes)
	if err != nil {
		return err
	}
	for _, n := range chosen {
		if err := n.stop(ctx); err != nil {
			return s.failed("restart", n.name, err)
		}
	}
	err = startAll(ctx, chosen)
	if err == nil {
		_, err = awaitAll(ctx, chosen)
	}
	if err != nil {
		return fmt.Errorf("testserver: restart %s: %w", s.store, err)
	}
	return nil
}

// Log returns the end of what a node has written to its standard output and error.
func (s *Server) Log(i int) string {
	if i < 0 || i >= len(s.nodes) {
		return ""
	}
	return s.engine.Log(i)
}

// Nodes returns how many nodes there are to kill, pause and restart: none if the environment named the server.
func (s *Server) Nodes() int { return len(s.nodes) }

func (s *Server) each(verb string, nodes []int, do func(*node) error) error {
	chosen, err := s.choose(verb, nodes)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range chosen {
		if err := do(n); err != nil {
			errs = append(errs, s.failed(verb, n.name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Server) choose(verb string, nodes []int) ([]*node, error) {
	switch {
	case s.shared:
		return nil, s.failed(verb, "", errors.New("the server is shared with other tests; use Start"))
	case len(s.nodes) == 0:
		return nil, s.failed(verb, "", errors.ErrUnsupported)
	case len(nodes) == 0:
		return s.nodes, nil
	}
	var chosen []*node
	for _, i := range nodes {
		if i < 0 || i >= len(s.nodes) {
			return nil, s.failed(verb, "", fmt.Errorf("no node %d: there are %d", i, len(s.nodes)))
		}
		chosen = append(chosen, s.nodes[i])
	}
	return chosen, nil
}

func (s *Server) failed(verb, node string, err error) error {
	return fmt.Errorf("testserver: %s: %w", strings.Join(strings.Fields(verb+" "+string(s.store)+" "+node), " "), err)
}

// Close kills every node and removes its data. It is idempotent. A server that the environment named is left alone.
func (s *Server) Close() error {
	var errs []error
	for _, n := range s.nodes {
		errs = append(errs, n.kill())
	}
	if s.engine != nil {
		errs = append(errs, s.engine.Close())
	}
	if s.dir != nil {
		errs = append(errs, s.dir.remove())
	}
	return errors.Join(errs...)
}

// NodeAddr returns the host and port at which node i takes clients, also of nodes that Addrs does not name: those that
// clients of a Sentinel are told of.
func (s *Server) NodeAddr(i int) string { return s.cluster.client(i) }
