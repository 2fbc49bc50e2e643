package boltkv

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"github.com/polykv/kv/backend"
)

// bbolt maps the file into memory. Where the file ends too early, after a full
// disk or a copy that was broken off, touching the map is a fault that ends the
// process. So the length is looked at first. The first two pages of the file
// each have a header of 16 bytes and then, in the byte order of the machine:
//
//	magic, version, page size, flags   4 bytes each
//	root page, sequence, free list     8 each
//	pages in use, transaction          8 each
//	FNV-1a of the above                8
//
// The valid one with the later transaction counts. It is written after the
// pages that it speaks of, so this needs no lock.
const (
	pageHeader  = 16
	metaSize    = 16 + 5*8 + 8
	metaMagic   = 0xED0CDAED
	metaVersion = 2
)

// fileMeta is what the check needs of a meta page.
type fileMeta struct {
	pageSize, pages, txid uint64
}

// readMeta reads the meta page at off, if there is a valid one.
func readMeta(f io.ReaderAt, off int64) (m fileMeta, ok bool) {
	var b [pageHeader + metaSize]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		return m, false
	}
	p, e := b[pageHeader:], binary.NativeEndian
	h := fnv.New64a()
	_, _ = h.Write(p[:metaSize-8]) // never fails
	if e.Uint32(p) != metaMagic || e.Uint32(p[4:]) != metaVersion || e.Uint64(p[metaSize-8:]) != h.Sum64() {
		return m, false
	}
	return fileMeta{uint64(e.Uint32(p[8:])), e.Uint64(p[40:]), e.Uint64(p[48:])}, true
}

// checkLength answers ErrCorrupt to a file that is shorter than it says of
// itself. What is no database at all is left to bbolt to refuse.
func checkLength(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err // a new file
	}
	first, ok := readMeta(f, 0)
	offsets := []int64{int64(first.pageSize)}
	if !ok { // look for the second one where the usual page sizes have it
		offsets = nil
		for size := int64(1024); size <= 64<<10; size *= 2 {
			offsets = append(offsets, size)
		}
	}
	for _, off := range offsets {
		if second, valid := readMeta(f, off); valid && (!ok || second.txid > first.txid) {
			first, ok = second, true
		}
	}
	if want := first.pages * first.pageSize; ok && uint64(info.Size()) < want {
		return fmt.Errorf("%w: the file has %d bytes and should have %d", backend.ErrCorrupt, info.Size(), want)
	}
	return nil
}
