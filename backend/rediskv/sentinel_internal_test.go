package rediskv

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
)

// sentinel answers on conn who the primary is.
func sentinel(conn net.Conn, says func() opinion) {
	defer conn.Close()
	for r := bufio.NewReader(conn); ; {
		words, err := request(r)
		if err != nil {
			return
		}
		reply := "+OK\r\n"
		switch strings.ToLower(words[0]) {
		case "hello":
			reply = "-ERR unknown command\r\n"
		case "sentinel":
			said := says()
			host, port, _ := net.SplitHostPort(said.addr)
			if words[1] == "master" {
				host, port = "config-epoch", strconv.FormatUint(said.epoch, 10)
			}
			reply = fmt.Sprintf("*2\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(host), host, len(port), port)
		case "subscribe":
			reply = fmt.Sprintf("*3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:1\r\n", len(words[1]), words[1])
		}
		if _, err := io.WriteString(conn, reply); err != nil {
			return
		}
	}
}

// request reads an array of strings.
func request(r *bufio.Reader) (words []string, err error) {
	length := func() (n int) {
		line, _ := r.ReadString('\n')
		if len(line) < 4 {
			err = io.ErrUnexpectedEOF
			return 0
		}
		n, err = strconv.Atoi(line[1 : len(line)-2])
		return n
	}
	for n := length(); n > 0 && err == nil; n-- {
		word := make([]byte, length()+2)
		if err == nil {
			_, err = io.ReadFull(r, word)
		}
		words = append(words, string(word[:len(word)-2]))
	}
	if err == nil && len(words) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return words, err
}

// TestMovedWhileDialing: a connection that is made to the primary while another one takes its place is not used.
func TestMovedWhileDialing(t *testing.T) {
	const older, newer = "127.0.0.1:1", "127.0.0.1:2"
	primary := make(chan string, 1)
	primary <- older
	said := func() opinion {
		at := <-primary
		primary <- at
		return opinion{addr: at}
	}
	ss := &sentinels{addrs: []string{"127.0.0.1:3"}, master: "m", timeout: 5 * time.Second, conns: map[*toPrimary]struct{}{}}
	ss.connect = func(_ context.Context, _, addr string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		switch addr {
		case ss.addrs[0]:
			go sentinel(theirs, said)
		case older:
			<-primary
			primary <- newer
			ss.moved(opinion{addr: newer})
			fallthrough
		default:
			t.Cleanup(func() { theirs.Close() })
		}
		return ours, nil
	}
	defer ss.close()
	if conn, err := ss.dial(t.Context(), "tcp", ""); !errors.Is(err, backend.ErrUnavailable) {
		t.Fatalf("a connection to who was the primary: %v, %v", conn, err)
	}
	conn, err := ss.dial(t.Context(), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if at := conn.(*toPrimary).addr; at != newer {
		t.Errorf("connected to %s, the primary is %s", at, newer)
	}
}
