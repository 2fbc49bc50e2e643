package testserver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// place finds a place for every node and then writes their files, which name each other's places.
func (s *Server) place(ctx context.Context, spec Spec, prog program) (err error) {
	c := &s.cluster
	c.spec, c.listen = spec, s.engine.Listen()
	if spec.TLS {
		if c.pki, err = newPKI(filepath.Join(s.dir.path, "tls")); err != nil {
			return err
		}
	}
	if spec.Auth {
		c.admin, c.limited = newCredentials(spec.Store, adminName(spec.Store)), newCredentials(spec.Store, "limited")
	}
	var hosts []string
	if spec.Apart {
		r, ok := s.engine.(router)
		if !ok {
			return unavailable("%s gives nodes no networks of their own", s.engine.Name())
		}
		hosts = r.hosts()
	}
	n, perNode := prog.nodes(spec)
	ports, err := freePorts(n * perNode)
	if err != nil {
		return err
	}
	for i := range n {
		m := member{name: fmt.Sprintf("node%d", i), host: loopbackHost, ports: ports[i*perNode : (i+1)*perNode]}
		if spec.Apart {
			m.host = hosts[i]
		}
		m.dir = filepath.Join(s.dir.path, m.name)
		if err := os.Mkdir(m.dir, 0o700); err != nil {
			return err
		}
		c.members = append(c.members, m)
	}
	layout := Layout{Spec: spec, Dir: s.dir.path}
	for i := range n {
		args, err := prog.configure(c, i)
		if err != nil {
			return err
		}
		m := &c.members[i]
		layout.Nodes = append(layout.Nodes, LayoutNode{Name: m.name, Dir: m.dir, Args: args, Port: m.ports[0]})
		s.nodes = append(s.nodes, &node{member: m, cluster: c, index: i, prog: prog, engine: s.engine})
	}
	return s.engine.Place(ctx, layout)
}
