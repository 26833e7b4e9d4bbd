# What a Zygote of Python needs that Python cannot be: RELAY in zygote.py, assembled.
#
# The intermediate process of a fork into namespaces, which shares the Zygote's memory as vfork(2) has it.
# Called as long relay(long *given); comes back twice, as fork(2) does: with the relay's process
# number (or -errno) in the Zygote, with 0 in the new process.
# given: [0] top of the relay's stack, [8] (where the caller's stack is kept), [16] fork of the C library, [24] how many
# system calls come first, [32] [40] of the one that failed: how many were left, and its result; [48] the calls, each a
# number, six arguments and the result that it must have. The relay exits with 1 where it failed, [32] being 0 where that
# was the fork.
.intel_syntax noprefix
.text
  push rbx
  push rbp
  push r12
  push r13
  push r14
  push r15
  sub rsp, 8                # the stack is aligned where the new process goes on
  mov rbx, rdi
  mov [rbx+8], rsp
  mov eax, 56               # clone(CLONE_VM | CLONE_VFORK | SIGCHLD, stack)
  mov edi, 0x4111
  mov rsi, [rbx]
  xor edx, edx
  xor r10d, r10d
  xor r8d, r8d
  syscall
  test rax, rax
  jz relay
done:
  add rsp, 8
  pop r15
  pop r14
  pop r13
  pop r12
  pop rbp
  pop rbx
  ret
relay:                      # on its own stack from here
  lea r13, [rbx+48]
  mov r12, [rbx+24]
next:
  test r12, r12
  jz fork
  mov rax, [r13]
  mov rdi, [r13+8]
  mov rsi, [r13+16]
  mov rdx, [r13+24]
  mov r10, [r13+32]
  mov r8, [r13+40]
  mov r9, [r13+48]
  syscall
  cmp rax, [r13+56]
  jne fail
  add r13, 64
  dec r12
  jmp next
fork:
  call [rbx+16]
  test eax, eax
  jz child
  js fail
  xor edi, edi
exit:
  mov eax, 231              # exit_group
  syscall
fail:
  mov [rbx+32], r12
  mov [rbx+40], rax
  mov edi, 1
  jmp exit
child:                      # in a copy of the memory: back to the stack of the call
  mov rsp, [rbx+8]
  xor eax, eax
  jmp done

# Makes an arena of the interpreter's from memory that was set aside: void *arena(void *context, size_t bytes).
# context: [0] what is free of it, [8] its end, [16] what makes all others, as those that are small (a thread's stack of
# frames comes and goes).
.org 176
  cmp rsi, 0x10000
  jb other
  mov rax, rsi
  lock xadd [rdi], rax
  add rax, rsi
  cmp rax, [rdi+8]
  ja other
  sub rax, rsi
  ret
other:
  jmp [rdi+16]
