package vm

import (
	"context"
	"log/slog"
	"time"

	"switchyard/hostsim/abi"
)

// Logging, time, timers, contexts and foreign functions (Proxy-Wasm 0.2.1,
// "Logging", "Time", "Timers", "Stream contexts", "Foreign function interface").

// Levels of the log that log/slog has no name for.
const (
	LevelTrace    = slog.LevelDebug - 4
	LevelCritical = slog.LevelError + 4
)

// logLevels are slog's levels by abi.LogLevel.
var logLevels = [...]slog.Level{
	abi.LogTrace:    LevelTrace,
	abi.LogDebug:    slog.LevelDebug,
	abi.LogInfo:     slog.LevelInfo,
	abi.LogWarn:     slog.LevelWarn,
	abi.LogError:    slog.LevelError,
	abi.LogCritical: LevelCritical,
}

// log writes what the guest logs, with Envoy's prefix.
func (c *hostContext) log(level abi.LogLevel, message []byte) {
	logger := c.instance.group.engine.log
	if c.instance.group.engine.opts.Observe != nil {
		c.instance.message = &Message{logLevels[level], string(message)}
	}
	if l := logLevels[level]; logger.Enabled(context.Background(), l) {
		logger.Log(context.Background(), l, c.logPrefix+string(message))
	}
}

func proxyLog(v *instance, stack []uint64) abi.Status {
	if uint32(stack[0]) > uint32(abi.LogCritical) {
		return abi.StatusBadArgument
	}
	message, ok := v.read(stack[1], stack[2])
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	v.context().log(abi.LogLevel(stack[0]), message)
	return abi.StatusOK
}

// proxyGetLogLevel gives the lowest level that is written, or 6 for none.
func proxyGetLogLevel(v *instance, stack []uint64) abi.Status {
	level := 0
	for level < len(logLevels) && !v.group.engine.log.Enabled(context.Background(), logLevels[level]) {
		level++
	}
	if !v.writeUint32(stack[0], uint32(level)) {
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

func proxyGetCurrentTimeNanoseconds(v *instance, stack []uint64) abi.Status {
	if !v.writeUint64(stack[0], uint64(v.group.engine.now().UnixNano())) {
		return abi.StatusInvalidMemoryAccess
	}
	return abi.StatusOK
}

func proxySetTickPeriodMilliseconds(v *instance, stack []uint64) abi.Status {
	root := v.context().root
	root.tickPeriod = time.Duration(uint32(stack[0])) * time.Millisecond
	if p := root.pluginOf(); p != nil && p.config.OnTickPeriod != nil && !v.loading {
		p.config.OnTickPeriod(v.worker, root.tickPeriod)
	}
	return abi.StatusOK
}

func proxySetEffectiveContext(v *instance, stack []uint64) abi.Status {
	c, ok := v.contexts[uint32(stack[0])]
	if !ok {
		return abi.StatusBadArgument
	}
	if v.effective = c; c.id == 0 {
		v.effective = nil // that of the callback again
	}
	return abi.StatusOK
}

// proxyDone says that a root context, whose on_done said no, is done now. It
// is deleted when the callback has returned.
func proxyDone(v *instance, _ []uint64) abi.Status {
	root := v.context().root
	if !root.pendingDone {
		return abi.StatusNotFound
	}
	root.pendingDone = false
	v.finished = append(v.finished, root)
	return abi.StatusOK
}

// proxyCallForeignFunction hands unknown names on, and writes results and
// their size only where the guest asks for them.
func proxyCallForeignFunction(v *instance, stack []uint64) abi.Status {
	name, ok1 := v.readString(stack[0], stack[1])
	args, ok2 := v.read(stack[2], stack[3])
	if !ok1 || !ok2 {
		return abi.StatusInvalidMemoryAccess
	}
	var result []byte
	status := abi.StatusNotFound
	if name == "clear_route_cache" {
		if c := v.current; c.stream != nil {
			c.stream.ClearRouteCache()
		}
		status = abi.StatusOK
	} else if p := v.context().pluginOf(); p != nil && p.config.Foreign != nil {
		result, status = p.config.Foreign(v.context().stream, name, args)
	}
	if status == abi.StatusNotFound && result == nil {
		return status // there is no such function
	}
	resultsPtr, sizePtr := stack[4], stack[5]
	var ptr uint32
	if uint32(resultsPtr) != 0 {
		if len(result) > 0 {
			b, p, ok := v.alloc(len(result))
			if !ok {
				return abi.StatusInvalidMemoryAccess
			}
			copy(b, result)
			ptr = p
		}
		if !v.writeUint32(resultsPtr, ptr) {
			return abi.StatusInvalidMemoryAccess
		}
	}
	if uint32(sizePtr) != 0 && !v.writeUint32(sizePtr, uint32(len(result))) {
		return abi.StatusInvalidMemoryAccess
	}
	return status
}
