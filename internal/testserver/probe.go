package testserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// probeTimeout bounds one probe: a paused or hanging server must not eat the whole start.
const probeTimeout = 2 * time.Second

// Await returns the version of a server in default configuration at addr (host:port), which somebody else has started,
// once it takes reads and writes. It gives up when ctx ends.
func Await(ctx context.Context, store Store, addr string) (version string, err error) {
	spec := Spec{Store: store}
	prog, err := programOf(spec)
	if err != nil {
		return "", err
	}
	n := node{prog: prog, cluster: &cluster{spec: spec, members: []member{{elsewhere: addr}}}}
	version, err = n.serves(ctx, func() bool { return true })
	if err != nil {
		return "", fmt.Errorf("testserver: %s at %s does not serve: %w", store, addr, err)
	}
	return version, nil
}

// call sends one HTTP request to addr, with token if the server wants one, and decodes the answer into the last argument
// unless that is nil. It has a connection of its own, so that no goroutine stays behind.
func (c *cluster) call(ctx context.Context, method, addr, path, token string, body, into any) error {
	url := "http://" + addr + path
	transport := &http.Transport{DisableKeepAlives: true}
	if c.pki != nil {
		url = "https://" + addr + path
		transport.TLSClientConfig = c.pki.trusted.Clone()
	}
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return err
	}
	if token != "" {
		// Consul takes it from either header, etcd from the second, without a word before it.
		req.Header.Set("X-Consul-Token", token)
		req.Header.Set("Authorization", token)
	}
	client := http.Client{Transport: transport}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.200s", url, resp.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// dial opens a connection, with TLS if the server wants it. Its deadline is that of ctx.
func (c *cluster) dial(ctx context.Context, addr string) (net.Conn, error) {
	var d interface {
		DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	} = new(net.Dialer)
	if c.pki != nil {
		d = &tls.Dialer{Config: c.pki.trusted.Clone()}
	}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			_ = conn.Close() // the first error is the one to tell
			return nil, err
		}
	}
	return conn, nil
}

// ask sends one request and returns what comes until the server closes the connection.
func (c *cluster) ask(ctx context.Context, addr, request string) ([]byte, error) {
	conn, err := c.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(conn, 1<<20))
}
