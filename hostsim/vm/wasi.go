package vm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"time"

	"switchyard/hostsim/abi"
)

// WASI preview 1 as Envoy offers it: 45 of its 46 functions, most of which do
// nothing but say so. The WebAssembly engine's own WASI would link what Envoy
// refuses and do what Envoy does not.

// WASI errnos, as Envoy gives them.
const (
	wasiESUCCESS    = 0
	wasiEBADF       = 8
	wasiENOTDIR     = 20 // what Envoy gives; WASI's is 54
	wasiEFAULT      = 21
	wasiEINVAL      = 28
	wasiENOENT      = 44
	wasiENOSYS      = 52
	wasiENOTSUP     = 58
	wasiENOTCAPABLE = 76
)

// maxRandomGet is the most bytes one random_get gives.
const maxRandomGet = 64 << 10

type wasiFunc = func(v *instance, stack []uint64) uint32

// wasiFunctions returns the table. The number and width of parameters are
// Envoy's, also where they are not WASI's (path_link, path_symlink). A module
// name is not set.
func wasiFunctions() []hostFunc {
	// wide lists the parameters that are i64.
	fn := func(name string, during restriction, params int, call wasiFunc, wide ...int) hostFunc {
		f := hostFunc{name: name, params: types(params), results: types(1), versions: abiAll, call: call, during: during}
		for _, i := range wide {
			f.params[i] = i64
		}
		return f
	}
	errno := func(errno uint32) wasiFunc { return func(*instance, []uint64) uint32 { return errno } }
	// ignored is a function that Envoy only mentions in its log.
	ignored := func(name string) wasiFunc {
		return func(v *instance, _ []uint64) uint32 {
			v.group.engine.log.Log(context.Background(), LevelTrace, "wasi_unstable "+name)
			return wasiESUCCESS
		}
	}
	exit := fn("proc_exit", unrestricted, 1, ignored("proc_exit"))
	exit.results = nil
	return []hostFunc{
		fn("fd_write", allocating, 4, wasiFdWrite),
		fn("fd_pwrite", starting, 5, func(v *instance, stack []uint64) uint32 {
			return v.writev(stack[0], stack[1], stack[2], stack[4])
		}, 3),
		fn("fd_read", unrestricted, 4, errno(wasiENOSYS)),
		fn("fd_pread", starting, 5, errno(wasiENOSYS), 3),
		fn("fd_seek", unrestricted, 4, ignored("fd_seek"), 1),
		fn("fd_close", unrestricted, 1, ignored("fd_close")),
		fn("fd_fdstat_get", starting, 2, wasiFdFdstatGet),
		fn("fd_fdstat_set_flags", starting, 2, errno(wasiENOSYS)),
		fn("fd_fdstat_set_rights", starting, 3, wasiStandardOutput, 1, 2),
		fn("fd_advise", starting, 4, errno(wasiESUCCESS), 1, 2),
		fn("fd_allocate", starting, 3, wasiStandardOutput, 1, 2),
		fn("fd_datasync", starting, 1, wasiStandardOutput),
		fn("fd_sync", starting, 1, wasiStandardOutput),
		fn("fd_tell", starting, 2, wasiFdTell),
		fn("fd_filestat_get", starting, 2, errno(wasiEBADF)),
		fn("fd_filestat_set_size", starting, 2, wasiStandardOutput, 1),
		fn("fd_filestat_set_times", starting, 4, wasiStandardOutput, 1, 2),
		fn("fd_prestat_get", starting, 2, errno(wasiEBADF)),
		fn("fd_prestat_dir_name", starting, 3, errno(wasiENOSYS)),
		fn("fd_readdir", starting, 5, func(v *instance, stack []uint64) uint32 {
			return v.wasiZero(stack[4], wasiENOTDIR)
		}, 3),
		fn("fd_renumber", starting, 2, wasiFdRenumber),

		fn("path_open", unrestricted, 9, errno(wasiENOENT), 5, 6),
		fn("path_create_directory", starting, 3, errno(wasiENOTSUP)),
		fn("path_filestat_get", starting, 5, errno(wasiENOTSUP)),
		fn("path_filestat_set_times", starting, 7, errno(wasiENOTSUP), 4, 5),
		fn("path_link", starting, 6, errno(wasiENOTSUP)),
		fn("path_readlink", starting, 6, func(v *instance, stack []uint64) uint32 {
			return v.wasiZero(stack[5], wasiENOTSUP)
		}),
		fn("path_remove_directory", starting, 3, errno(wasiENOTSUP)),
		fn("path_rename", starting, 6, errno(wasiENOTSUP)),
		fn("path_symlink", starting, 4, errno(wasiENOTSUP)),
		fn("path_unlink_file", starting, 3, errno(wasiENOTSUP)),

		fn("sock_accept", starting, 3, func(v *instance, stack []uint64) uint32 {
			if !v.writeUint64(stack[2], 0) {
				return wasiEFAULT
			}
			return wasiENOTSUP
		}),
		fn("sock_recv", starting, 6, func(v *instance, stack []uint64) uint32 {
			if !v.writeUint32(stack[4], 0) {
				return wasiEFAULT
			}
			flags, ok := v.read(stack[5], 2)
			if !ok {
				return wasiEFAULT
			}
			clear(flags)
			return wasiENOTSUP
		}),
		fn("sock_send", starting, 5, func(v *instance, stack []uint64) uint32 {
			return v.wasiZero(stack[4], wasiENOTSUP)
		}),
		fn("sock_shutdown", starting, 2, errno(wasiENOTSUP)),

		fn("environ_get", starting, 2, wasiEnvironGet),
		fn("environ_sizes_get", starting, 2, wasiEnvironSizesGet),
		fn("args_get", starting, 2, errno(wasiESUCCESS)),
		fn("args_sizes_get", starting, 2, wasiArgsSizesGet),
		fn("clock_time_get", allocating, 3, wasiClockTimeGet, 1),
		fn("clock_res_get", starting, 2, wasiClockResGet),
		fn("random_get", starting, 2, wasiRandomGet),
		fn("sched_yield", unrestricted, 0, errno(wasiESUCCESS)),
		fn("poll_oneoff", allocating, 4, func(v *instance, stack []uint64) uint32 {
			// There are no events, ever; Go's runtime wants success.
			return v.wasiZero(stack[3], wasiESUCCESS)
		}),
		exit, // Envoy lets the guest run on
	}
}

// wasiZero writes a 0 for a result and returns errno.
func (v *instance) wasiZero(ptr uint64, errno uint32) uint32 {
	if !v.writeUint32(ptr, 0) {
		return wasiEFAULT
	}
	return errno
}

// standardOutput says whether fd is standard output or standard error.
func standardOutput(fd uint64) bool { return uint32(fd) == 1 || uint32(fd) == 2 }

// wasiStandardOutput succeeds, doing nothing, for the two files there are.
func wasiStandardOutput(_ *instance, stack []uint64) uint32 {
	if !standardOutput(stack[0]) {
		return wasiEBADF
	}
	return wasiESUCCESS
}

func wasiFdWrite(v *instance, stack []uint64) uint32 {
	return v.writev(stack[0], stack[1], stack[2], stack[3])
}

// writev logs what the guest writes: standard output as info, standard error
// as error, one message a call, less one newline at its end.
func (v *instance) writev(fd, iovs, iovsLen, writtenPtr uint64) uint32 {
	if !standardOutput(fd) {
		return wasiEBADF
	}
	level := abi.LogInfo
	if uint32(fd) == 2 {
		level = abi.LogError
	}
	list, ok := v.read(iovs, 8*uint64(uint32(iovsLen)))
	if uint32(iovsLen) > 1<<28 || !ok {
		return wasiEFAULT
	}
	var message []byte
	for ; len(list) > 0; list = list[8:] {
		ptr, size := binary.LittleEndian.Uint32(list), binary.LittleEndian.Uint32(list[4:])
		if size == 0 {
			continue
		}
		b, ok := v.read(uint64(ptr), uint64(size))
		// The same memory may be in the list any number of times, and what
		// does not fit in memory once was never there.
		if !ok || len(message)+len(b) > int(v.memory.Size()) {
			return wasiEFAULT
		}
		if len(list) == 8 && message == nil {
			message = b // a view will do
		} else {
			message = append(message, b...)
		}
	}
	if len(message) > 0 {
		v.context().log(level, bytes.TrimSuffix(message, []byte{'\n'}))
	}
	if !v.writeUint32(writtenPtr, uint32(len(message))) {
		return wasiEFAULT
	}
	return wasiESUCCESS
}

func wasiFdFdstatGet(v *instance, stack []uint64) uint32 {
	if !standardOutput(stack[0]) {
		return wasiEBADF
	}
	if stat, ok := v.read(stack[1], 24); ok {
		clear(stat)
		stat[8] = 64 // fs_rights_base: fd_write
	}
	return wasiESUCCESS
}

func wasiFdTell(v *instance, stack []uint64) uint32 {
	switch {
	case !standardOutput(stack[0]):
		return wasiEBADF
	case !v.writeUint64(stack[1], 0):
		return wasiEFAULT
	}
	return wasiESUCCESS
}

func wasiFdRenumber(_ *instance, stack []uint64) uint32 {
	if !standardOutput(stack[0]) || !standardOutput(stack[1]) {
		return wasiEBADF
	}
	return wasiENOTSUP
}

func wasiEnvironGet(v *instance, stack []uint64) uint32 {
	pointers, text := uint32(stack[0]), uint32(stack[1])
	for _, entry := range v.group.environ {
		b, ok := v.read(uint64(text), uint64(len(entry)))
		if !ok || !v.writeUint32(uint64(pointers), text) {
			return wasiEFAULT
		}
		copy(b, entry)
		pointers += 4
		text += uint32(len(entry))
	}
	return wasiESUCCESS
}

func wasiEnvironSizesGet(v *instance, stack []uint64) uint32 {
	size := 0
	for _, entry := range v.group.environ {
		size += len(entry)
	}
	if !v.writeUint32(stack[0], uint32(len(v.group.environ))) || !v.writeUint32(stack[1], uint32(size)) {
		return wasiEFAULT
	}
	return wasiESUCCESS
}

func wasiArgsSizesGet(v *instance, stack []uint64) uint32 {
	if !v.writeUint32(stack[0], 0) || !v.writeUint32(stack[1], 0) {
		return wasiEFAULT
	}
	return wasiESUCCESS
}

func wasiClockTimeGet(v *instance, stack []uint64) uint32 {
	var now int64
	switch uint32(stack[0]) {
	case 0: // realtime
		now = v.group.engine.now().UnixNano()
	case 1: // monotonic
		now = int64(v.group.engine.now().Sub(v.group.engine.begin) + time.Second)
	default:
		return wasiENOTSUP
	}
	if !v.writeUint64(stack[2], uint64(now)) {
		return wasiEFAULT
	}
	return wasiESUCCESS
}

func wasiClockResGet(v *instance, stack []uint64) uint32 {
	switch {
	case uint32(stack[0]) > 1:
		return wasiENOTSUP
	case !v.writeUint64(stack[1], 1):
		return wasiEFAULT
	}
	return wasiESUCCESS
}

func wasiRandomGet(v *instance, stack []uint64) uint32 {
	size := uint32(stack[1])
	switch {
	case size > maxRandomGet:
		return wasiEINVAL
	case size == 0:
		return wasiESUCCESS
	}
	b, ok := v.read(stack[0], uint64(size))
	if !ok {
		return wasiEFAULT
	}
	rand.Read(b)
	return wasiESUCCESS
}
