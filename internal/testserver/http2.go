package testserver

import (
	"bytes"
	"encoding/binary"
	"iter"
)

// To lose the reply to one call on a connection that many share, the proxy has to know which bytes belong to which call.
// HTTP/2, and so gRPC, sends window updates and answers to pings between a request and its reply.

const (
	http2Preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113, 3.4
	http2FrameHeader = 9
	http2Data        = 0x0
	http2Headers     = 0x1
	http2Reset       = 0x3
	http2EndStream   = 0x1 // a flag
)

// frames cuts one direction of an HTTP/2 connection into frames, whatever the chunks it comes in.
type frames struct {
	header [http2FrameHeader]byte
	have   int // of header
	left   int // of the payload
}

type frame struct {
	kind, flags byte
	stream      uint32
}

// parts yields each frame that has bytes in chunk, with those of its payload. A frame without payload is yielded when its
// header is complete.
func (f *frames) parts(chunk []byte) iter.Seq2[frame, []byte] {
	return func(yield func(frame, []byte) bool) {
		// All of the chunk is scanned even if the caller has seen enough, so that the next one is understood.
		more := true
		for len(chunk) > 0 {
			if f.have < http2FrameHeader {
				n := copy(f.header[f.have:], chunk)
				f.have, chunk = f.have+n, chunk[n:]
				if f.have < http2FrameHeader {
					return
				}
				f.left = int(f.header[0])<<16 | int(f.header[1])<<8 | int(f.header[2])
				if f.left > 0 && len(chunk) == 0 {
					return
				}
			}
			n := min(f.left, len(chunk))
			payload := chunk[:n]
			f.left, chunk = f.left-n, chunk[n:]
			head := frame{f.header[3], f.header[4], binary.BigEndian.Uint32(f.header[5:]) &^ (1 << 31)}
			if f.left == 0 {
				f.have = 0
			}
			more = more && yield(head, payload)
		}
	}
}

// A requestScanner finds the requests in what a client sends.
type requestScanner struct {
	preface int  // bytes of the preface seen
	plain   bool // it is not HTTP/2
	frames  frames
}

// parts yields what match is to see, with the HTTP/2 stream it belongs to.
func (s *requestScanner) parts(chunk []byte) iter.Seq2[uint32, []byte] {
	return func(yield func(uint32, []byte) bool) {
		rest := chunk
		if want := http2Preface[s.preface:]; !s.plain && want != "" {
			n := min(len(want), len(chunk))
			if !bytes.Equal(chunk[:n], []byte(want[:n])) {
				s.plain = true
			}
			s.preface += n
			rest = chunk[n:]
		}
		if s.plain {
			yield(0, chunk)
			return
		}
		more := true
		for f, payload := range s.frames.parts(rest) {
			if f.kind == http2Data && f.stream != 0 {
				more = more && yield(f.stream, payload)
			}
		}
	}
}

// A replyScanner finds the reply that is to be lost in what a server sends.
type replyScanner struct{ frames frames }

// find reports whether chunk begins the reply that l waits for. It has to see every chunk of the connection, with nil
// for l if none is waited for. On a connection that is not HTTP/2 what the scanner makes of it does not matter.
func (s *replyScanner) find(chunk []byte, l *loss) (found bool) {
	for f := range s.frames.parts(chunk) {
		if l == nil || f.stream != l.stream {
			continue
		}
		if f.kind == http2Data || f.kind == http2Reset || f.kind == http2Headers && f.flags&http2EndStream != 0 {
			found = true
		}
	}
	return l != nil && (l.stream == 0 || found)
}
